// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

#include <cstring>

namespace kiln {

ErrorKind kind_of_errno(int sys_errno) {
  switch (sys_errno) {
    case ENOENT:
    case ESRCH:
    case ENXIO:
    case ENODEV:
      return ErrorKind::kNotFound;
    case EEXIST:
      return ErrorKind::kAlreadyExists;
    case EPERM:
    case EACCES:
      return ErrorKind::kPermissionDenied;
    case EINVAL:
    case ENAMETOOLONG:
    case ENOTDIR:
    case ELOOP:
      return ErrorKind::kInvalidArgument;
    case EBUSY:
    case ENOTEMPTY:
      return ErrorKind::kFailedPrecondition;
    case ENOMEM:
    case ENOSPC:
    case EMFILE:
    case ENFILE:
    case EDQUOT:
      return ErrorKind::kResourceExhausted;
    case ETIMEDOUT:
      return ErrorKind::kDeadlineExceeded;
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
    case EAGAIN:
      return ErrorKind::kUnavailable;
    case ENOSYS:
    case EOPNOTSUPP:
      return ErrorKind::kUnimplemented;
    case ECANCELED:
      return ErrorKind::kCancelled;
    default:
      return ErrorKind::kUnknown;
  }
}

std::string errno_text(int sys_errno) {
  const char* text = strerrordesc_np(sys_errno);
  return text != nullptr ? text : "errno " + std::to_string(sys_errno);
}

tl::unexpected<Error> sys_error(std::string_view what, int sys_errno) {
  return tl::unexpected(
      Error{kind_of_errno(sys_errno), sys_errno, std::string(what) + ": " + errno_text(sys_errno)});
}

tl::unexpected<Error> make_error(ErrorKind kind, std::string message) {
  return tl::unexpected(Error{kind, 0, std::move(message)});
}

}  // namespace kiln
