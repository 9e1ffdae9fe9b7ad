// SPDX-License-Identifier: Apache-2.0
// What the shim's ttrpc services have in common: a table of calls, and messages to decode.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "shim/ttrpc/server.h"

namespace kiln::shim {

template <typename Service>
struct Call {
  const char* name;
  void (Service::*handler)(const ttrpc::Server::Incoming&, const ttrpc::Server::Reply&);
};

// `service` outlives the server.
template <typename Service>
void add_calls(Service* service, const char* name, std::span<const Call<Service>> calls,
               std::vector<ttrpc::Server::Method>& out) {
  for (const Call<Service>& call : calls) {
    ttrpc::Server::Method method;
    method.service = name;
    method.name = call.name;
    method.unary = [service, handler = call.handler](const ttrpc::Server::Incoming& incoming,
                                                     const ttrpc::Server::Reply& reply) {
      (service->*handler)(incoming, reply);
    };
    out.push_back(std::move(method));
  }
}

// False: it has been refused.
template <typename Message>
bool decode(const ttrpc::Server::Incoming& incoming, const ttrpc::Server::Reply& reply,
            Message& out) {
  if (out.ParseFromString(incoming.payload)) return true;
  reply(invalid_argument("the request cannot be decoded"));
  return false;
}

}  // namespace kiln::shim
