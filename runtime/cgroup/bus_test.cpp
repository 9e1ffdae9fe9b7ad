// SPDX-License-Identifier: Apache-2.0
// tests/integration/test_systemd.py speaks to a real systemd.
#include "runtime/cgroup/bus.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <thread>

#include "base/temporary_directory.h"
#include "base/unix_socket.h"

namespace kiln::runtime {
namespace {

std::string hex(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) {
    constexpr char digits[] = "0123456789abcdef";
    out += digits[static_cast<unsigned char>(c) >> 4];
    out += digits[c & 15];
  }
  return out;
}

// A return (2), error (3) or signal (4) with a body of one string.
std::string message(uint8_t type, uint32_t reply_to, const std::string& member,
                    const std::string& text) {
  BusWriter body;
  body.string(text);
  BusWriter out;
  out.u8('l');
  out.u8(type);
  out.u8(0);
  out.u8(1);
  out.u32(static_cast<uint32_t>(body.bytes().size()));
  out.u32(7);
  const size_t fields = out.open_array(8);
  out.align(8);
  out.u8(5);
  out.signature("u");
  out.u32(reply_to);
  out.align(8);
  out.u8(3);
  out.signature("s");
  out.string(member);
  out.align(8);
  out.u8(8);
  out.signature("g");
  out.signature("s");
  out.close_array(fields);
  out.align(8);
  return out.bytes() + body.bytes();
}

TEST(BusWriter, AlignsAsTheSpecificationSays) {
  BusWriter out;
  out.u8(1);
  out.u64(2);
  out.signature("t");
  out.string("ab");
  EXPECT_EQ(hex(out.bytes()),
            "0100000000000000"
            "0200000000000000"
            "017400"
            "00"
            "02000000"
            "616200");
}

TEST(BusWriter, AnArrayCountsItsElementsWithoutThePaddingBefore) {
  BusWriter out;
  const size_t array = out.open_array(8);
  out.u64(5);
  out.close_array(array);
  EXPECT_EQ(hex(out.bytes()),
            "08000000"
            "00000000"
            "0500000000000000");
}

TEST(BusMessage, ACallHasItsFields) {
  BusWriter body;
  body.u32(9);
  const std::string call = encode_bus_call({"/o", "a.b", "M", "u", body.bytes()}, "d.e", 3);
  EXPECT_EQ(call.size() % 8, 4U) << "the body follows an aligned header";
  const auto parsed = parse_bus_message(call);
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->type, 1);
  EXPECT_EQ(parsed->member, "M");
  EXPECT_EQ(parsed->signature, "u");
  EXPECT_EQ(hex(parsed->body), "09000000");
}

TEST(BusMessage, NonsenseIsRefused) {
  const std::string good = message(2, 1, "M", "text");
  ASSERT_TRUE(parse_bus_message(good));
  for (size_t size = 0; size < good.size(); ++size)
    EXPECT_FALSE(parse_bus_message(std::string_view(good).substr(0, size))) << size;
  for (const size_t at : {0U, 4U, 12U, 17U, 18U}) {
    std::string bad = good;
    bad[at] = '\x7f';
    bad[at + 3] = '\x7f';
    EXPECT_FALSE(parse_bus_message(bad)) << at;
  }
}

TEST(BusReader, StopsAtTheEnd) {
  BusReader reader(
      std::string_view("\xff\xff\xff\x7f"
                       "abc",
                       7));
  EXPECT_EQ(reader.string(), "");
  EXPECT_TRUE(reader.failed());
  EXPECT_EQ(reader.u32(), 0U);
}

// Takes one client, lets it in, and says what it is given, after so many calls each.
class FakeBus {
 public:
  FakeBus(const std::string& path, std::vector<std::string> answers)
      : listener_(listen_unix(path).value()), answers_(std::move(answers)) {
    thread_ = std::thread([this] { serve(); });
  }
  ~FakeBus() { thread_.join(); }

 private:
  void serve() {
    const UniqueFd client = accept_unix(listener_.get()).value();
    std::string said;
    char buffer[4096];
    const auto read_until = [&](const char* end) {
      while (said.find(end) == std::string::npos) {
        const ssize_t size = recv(client.get(), buffer, sizeof buffer, 0);
        if (size <= 0) return;
        said.append(buffer, static_cast<size_t>(size));
      }
      said.erase(0, said.find(end) + std::string_view(end).size());
    };
    read_until("\r\n");
    static_cast<void>(send_with_fds(client.get(), "OK 0123\r\n", {}));
    read_until("BEGIN\r\n");
    for (const std::string& answer : answers_) {
      // Each call of these tests comes in one piece.
      if (said.empty()) {
        const ssize_t size = recv(client.get(), buffer, sizeof buffer, 0);
        if (size <= 0) return;
      }
      said.clear();
      static_cast<void>(send_with_fds(client.get(), answer, {}));
    }
  }

  UniqueFd listener_;
  std::vector<std::string> answers_;
  std::thread thread_;
};

class BusTest : public testing::Test {
 protected:
  TemporaryDirectory directory_ = TemporaryDirectory::create("/tmp", "kiln-bus-").value();
  const std::string path_ = directory_.path() + "/bus";
  const BusCall call_{"/o", "a.b", "Do", "", ""};
};

TEST_F(BusTest, AnswersAndSignalsFindTheirWay) {
  FakeBus peer(path_, {message(2, 1, "", ":1.1"), message(2, 2, "", ""),
                       message(4, 0, "Other", "no") + message(4, 0, "JobRemoved", "yes") +
                           message(2, 99, "", "not ours") + message(2, 3, "", "answer")});
  auto bus = Bus::connect(path_, "d.e");
  ASSERT_TRUE(bus) << bus.error().message;
  const auto answer = bus->call(call_);
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_EQ(BusReader(answer->body).string(), "answer");
  const auto signal = bus->wait_signal("JobRemoved");
  ASSERT_TRUE(signal) << signal.error().message;
  EXPECT_EQ(BusReader(signal->body).string(), "yes");
}

TEST_F(BusTest, AnErrorIsThePeersOwnWords) {
  FakeBus peer(path_, {message(2, 1, "", ":1.1"), message(2, 2, "", ""),
                       message(3, 3, "", "Unit c1.scope already exists.")});
  auto bus = Bus::connect(path_, "d.e");
  ASSERT_TRUE(bus) << bus.error().message;
  EXPECT_EQ(bus->call(call_).error().message, "Do: Unit c1.scope already exists.");
}

TEST_F(BusTest, APeerThatEndsOrTalksNonsenseIsAnError) {
  {
    FakeBus peer(path_, {message(2, 1, "", ":1.1"), message(2, 2, "", "")});
    auto bus = Bus::connect(path_, "d.e");
    ASSERT_TRUE(bus) << bus.error().message;
    EXPECT_EQ(bus->call(call_).error().kind, ErrorKind::kUnavailable);
  }
  FakeBus peer(directory_.path() + "/other", {std::string(64, 'B')});
  EXPECT_FALSE(Bus::connect(directory_.path() + "/other", "d.e"));
}

TEST_F(BusTest, NoBusIsAnError) { EXPECT_FALSE(Bus::connect(path_, "d.e")); }

}  // namespace
}  // namespace kiln::runtime
