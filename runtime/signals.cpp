// SPDX-License-Identifier: Apache-2.0
#include "runtime/signals.h"

#include <algorithm>
#include <charconv>
#include <csignal>
#include <utility>

#include "base/format.h"

namespace kiln::runtime {
namespace {

constexpr std::pair<const char*, int> kSignals[] = {
    {"HUP", SIGHUP},       {"INT", SIGINT},     {"QUIT", SIGQUIT},  {"ILL", SIGILL},
    {"TRAP", SIGTRAP},     {"ABRT", SIGABRT},   {"IOT", SIGIOT},    {"BUS", SIGBUS},
    {"FPE", SIGFPE},       {"KILL", SIGKILL},   {"USR1", SIGUSR1},  {"SEGV", SIGSEGV},
    {"USR2", SIGUSR2},     {"PIPE", SIGPIPE},   {"ALRM", SIGALRM},  {"TERM", SIGTERM},
    {"STKFLT", SIGSTKFLT}, {"CHLD", SIGCHLD},   {"CLD", SIGCHLD},   {"CONT", SIGCONT},
    {"STOP", SIGSTOP},     {"TSTP", SIGTSTP},   {"TTIN", SIGTTIN},  {"TTOU", SIGTTOU},
    {"URG", SIGURG},       {"XCPU", SIGXCPU},   {"XFSZ", SIGXFSZ},  {"VTALRM", SIGVTALRM},
    {"PROF", SIGPROF},     {"WINCH", SIGWINCH}, {"IO", SIGIO},      {"POLL", SIGPOLL},
    {"PWR", SIGPWR},       {"SYS", SIGSYS},     {"UNUSED", SIGSYS},
};

// The kernel's numbers: the C library keeps 32 and 33 for itself and counts from 34.
constexpr int kRtMin = 34;
constexpr int kRtMax = 64;

bool parse_number(std::string_view text, int& value) {
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  return failed == std::errc() && end == text.data() + text.size();
}

int parse_real_time(std::string_view name) {
  int offset = 0;
  if (name == "RTMIN") return kRtMin;
  if (name == "RTMAX") return kRtMax;
  if (name.starts_with("RTMIN+") && parse_number(name.substr(6), offset) && offset >= 0)
    return kRtMin + offset;
  if (name.starts_with("RTMAX-") && parse_number(name.substr(6), offset) && offset >= 0)
    return kRtMax - offset;
  return 0;
}

}  // namespace

Result<int> parse_signal(const std::string& text) {
  int number = 0;
  const bool named = !parse_number(text, number);
  if (named) {
    std::string name = text;
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    if (name.starts_with("SIG")) name.erase(0, 3);
    const auto* found = std::find_if(std::begin(kSignals), std::end(kSignals),
                                     [&](const auto& entry) { return name == entry.first; });
    number = found != std::end(kSignals) ? found->second : parse_real_time(name);
    if (number < 1 || number > kRtMax) number = 0;
  }
  if (number < (named ? 1 : 0) || number > kRtMax)
    return invalid_argument(fmt::format("unknown signal \"{}\"", text));
  return number;
}

std::vector<int> forwarded_signals() {
  std::vector<int> out{SIGHUP,  SIGINT,  SIGQUIT, SIGUSR1,  SIGUSR2, SIGALRM,
                       SIGTERM, SIGCONT, SIGURG,  SIGWINCH, SIGIO,   SIGPWR};
  for (int number = kRtMin; number <= kRtMax; ++number) out.push_back(number);
  return out;
}

}  // namespace kiln::runtime
