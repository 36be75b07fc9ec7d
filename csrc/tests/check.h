// A test harness in one header: TEST(name) { ... CHECK ... }, and main() comes with it (unless
// CHECK_OWN_MAIN is defined).
//
// `./test_triplane` runs every test of the file, `./test_triplane forward` those whose name holds
// "forward". A failed CHECK is printed with its place and its values, and the test goes on.
#pragma once

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <sstream>
#include <string>
#include <vector>

namespace check {

struct Test {
  const char* name;
  void (*body)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> list;
  return list;
}

inline int& failures() {
  static int count = 0;
  return count;
}

inline bool register_test(const char* name, void (*body)()) {
  tests().push_back({name, body});
  return true;
}

// Prints at most 20 failures: a wrong kernel fails thousands of times.
inline void fail(const char* file, int line, const std::string& text) {
  if (++failures() <= 20) std::printf("  %s:%d: %s\n", file, line, text.c_str());
}

template <typename A, typename B>
void equal(A a, B b, const char* text, const char* file, int line) {
  if (a == b) return;
  std::ostringstream out;
  out.precision(17);
  out << text << ": " << a << " != " << b;
  fail(file, line, out.str());
}

// |a - b| <= tolerance; two NaNs, or two equal infinities, count as near.
inline void near(double a, double b, double tolerance, const char* text, const char* file,
                 int line) {
  if (a == b || (std::isnan(a) && std::isnan(b)) || std::fabs(a - b) <= tolerance) return;
  std::ostringstream out;
  out.precision(17);
  out << text << ": " << a << " vs " << b << ", off by " << std::fabs(a - b) << " > " << tolerance;
  fail(file, line, out.str());
}

inline int run(const char* filter) {
  int failed = 0, ran = 0;
  for (const Test& test : tests()) {
    if (filter != nullptr && std::strstr(test.name, filter) == nullptr) continue;
    const int before = failures();
    const auto start = std::chrono::steady_clock::now();
    ++ran;
    try {
      test.body();
    } catch (const std::exception& error) {
      fail(test.name, 0, std::string("exception: ") + error.what());
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf("%s %6.2f s  %s\n", failures() == before ? "ok  " : "FAIL", seconds.count(),
                test.name);
    failed += failures() != before;
  }
  std::printf("%d tests, %d failed\n", ran, failed);
  return failed > 0 || ran == 0;
}

}  // namespace check

#define TEST(name)                                                                 \
  static void test_##name();                                                       \
  static const bool registered_##name = check::register_test(#name, &test_##name); \
  static void test_##name()

#define CHECK(condition) \
  ((condition) ? void() : check::fail(__FILE__, __LINE__, "not true: " #condition))
#define CHECK_EQUAL(a, b) check::equal(a, b, #a " == " #b, __FILE__, __LINE__)
#define CHECK_NEAR(a, b, tolerance) check::near(a, b, tolerance, #a " ~ " #b, __FILE__, __LINE__)
// The statement must throw, with `part` in the message.
#define CHECK_THROWS(statement, part)                                                 \
  try {                                                                               \
    statement;                                                                        \
    check::fail(__FILE__, __LINE__, "nothing thrown: " #statement);                   \
  } catch (const std::exception& error) {                                             \
    if (std::string(error.what()).find(part) == std::string::npos)                    \
      check::fail(__FILE__, __LINE__, std::string("wrong message: ") + error.what()); \
  }

#if !defined(CHECK_OWN_MAIN)
int main(int argc, char** argv) {
  return check::run(argc > 1 ? argv[1] : nullptr);
}
#endif
