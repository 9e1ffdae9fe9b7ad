// SPDX-License-Identifier: Apache-2.0
// Errors as ttrpc carries them: google.rpc.Status.
#pragma once

#include <string>

#include "base/error.h"
#include "ttrpc.pb.h"

namespace kiln::ttrpc {

// A Response that says so. Of a message longer than 16 KiB the beginning; bytes that are not UTF-8
// become U+FFFD, since who gets them takes them for a broken response.
std::string encode_status(const Error& error);

// `status`: not OK. A code that no ErrorKind stands for becomes kUnknown.
Error decode_status(const api::Status& status);

}  // namespace kiln::ttrpc
