// SPDX-License-Identifier: Apache-2.0
// Error and Result: how every fallible function of kiln reports failure. No exceptions of ours:
// failures cross ioctls, forks, PID 1 and RPC.
#pragma once

#include <cerrno>
#include <string>
#include <string_view>
#include <utility>

#include <tl/expected.hpp>

namespace kiln {

// Maps 1:1 onto the gRPC/ttrpc status codes of the same name (google.rpc.Code).
enum class ErrorKind : int {
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
};

// The kind that an errno value stands for; kUnknown where none fits.
ErrorKind kind_of_errno(int sys_errno);

// `strerror` that is thread-safe and does not depend on the locale.
std::string errno_text(int sys_errno);

struct [[nodiscard]] Error {
  ErrorKind kind = ErrorKind::kUnknown;
  int sys_errno = 0;    // 0 when no system call failed
  std::string message;  // lower case; verb + object in backticks; the cause last

  // Puts `context` in front: `open `x`: ...` becomes `start `c1`: open `x`: ...`.
  Error wrap(std::string_view context) && {
    message.insert(0, std::string(context) + ": ");
    return std::move(*this);
  }
};

template <typename T>
using Result = tl::expected<T, Error>;

// The failure of a system call: message is `what: strerror`. Reads errno first, so call it right
// after.
tl::unexpected<Error> sys_error(std::string_view what, int sys_errno = errno);

// A failure that is not a system call's.
tl::unexpected<Error> make_error(ErrorKind kind, std::string message);
inline tl::unexpected<Error> invalid_argument(std::string message) {
  return make_error(ErrorKind::kInvalidArgument, std::move(message));
}

// Adds context on the way out: `TRY(wrap(open_it(), "start `c1`"))`.
template <typename T>
Result<T> wrap(Result<T> result, std::string_view context) {
  if (result) return result;
  return tl::unexpected(std::move(result.error()).wrap(context));
}

namespace internal {
template <typename T>
T take(Result<T>& result) {
  return std::move(*result);
}
inline void take(Result<void>&) {}
}  // namespace internal
}  // namespace kiln

#define KILN_CONCAT_TOKENS(a, b) a##b
#define KILN_CONCAT(a, b) KILN_CONCAT_TOKENS(a, b)
#define KILN_TRY(result, expr)                                                      \
  __extension__({                                                                   \
    auto result = (expr);                                                           \
    if (!result) return ::tl::unexpected<::kiln::Error>(std::move(result.error())); \
    ::kiln::internal::take(result);                                                 \
  })
// Evaluates to the value of a Result, or returns its error from the enclosing function. A GNU
// statement expression, known to GCC and clang alike. The counter keeps a lambda's TRY inside
// another one's expression from hiding its result.
#define TRY(expr) KILN_TRY(KILN_CONCAT(try_result_, __COUNTER__), expr)
