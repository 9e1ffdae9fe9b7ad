// SPDX-License-Identifier: Apache-2.0
#include "agent/protocol/network.h"

#include <gtest/gtest.h>

namespace kiln::protocol {
namespace {

NetworkRequest full_request() {
  NetworkInterface interface;
  interface.device_mac = "02:6b:6e:00:00:01";
  interface.name = "eth0";
  interface.mac = "0a:58:0a:58:00:05";
  interface.mtu = 9000;
  interface.up = false;
  interface.disable_ipv6 = true;
  interface.addresses = {{"10.88.0.5", 16, "", "10.88.255.255", 0, true},
                         {"fd00::5", 64, "fd00::6", "", 253, false}};
  interface.routes = {{"0.0.0.0/0", "10.88.0.1", "10.88.0.5", 100, 0, 254, 1400, true}};
  interface.neighbours = {{"10.88.0.1", "aa:bb:cc:dd:ee:ff"}};
  return {{interface}};
}

TEST(NetworkRequest, ComesBackAsItWent) {
  const Json sent = to_json(full_request());
  const auto received = from_json<NetworkRequest>(sent);
  ASSERT_TRUE(received) << received.error().message;
  EXPECT_EQ(to_json(*received), sent);
  EXPECT_EQ(received->interfaces.at(0).routes.at(0).mtu, 1400U);
  EXPECT_TRUE(received->interfaces.at(0).addresses.at(0).no_prefix_route);
}

std::string refusal(Json message) {
  const auto received = from_json<NetworkRequest>(message);
  return received ? std::string() : received.error().message;
}

TEST(NetworkRequest, NamesWhatIsWrong) {
  Json sent = to_json(full_request());
  sent["interfaces"][0]["name"] = "a/b";
  EXPECT_NE(refusal(sent).find("/interfaces/0/name"), std::string::npos) << refusal(sent);
  sent["interfaces"][0]["name"] = "sixteen-letters-";
  EXPECT_EQ(refusal(sent), "/interfaces/0/name: must have at most 15 bytes");
  sent = to_json(full_request());
  sent["interfaces"][0]["addresses"][1]["prefix"] = 129;
  EXPECT_NE(refusal(sent).find("/interfaces/0/addresses/1/prefix"), std::string::npos);
  sent = to_json(full_request());
  sent["interfaces"][0]["routes"][0]["nexthop"] = "";
  EXPECT_NE(refusal(sent).find("/interfaces/0/routes/0/nexthop"), std::string::npos);
}

TEST(NetworkRequest, HasAtMostAsManyInterfacesAsAMachineHasSlots) {
  NetworkRequest request;
  request.interfaces.resize(kMaxInterfaces + 1, full_request().interfaces.at(0));
  EXPECT_EQ(refusal(to_json(request)), "/interfaces: must have at most 32 entries");
}

}  // namespace
}  // namespace kiln::protocol
