// Products of few rows against sums in double, rows and columns that are no whole vectors.
#include "check.h"
#include "epigraf/launch.h"
#include "random_values.h"

using namespace epigraf;

namespace {

constexpr int64_t kRows = 7, kInputs = 147, kOutputs = 35;

template <typename T>
struct Numbers {
  std::vector<T> x = random_values<T>(kRows * kInputs, -1, 1, 1);
  std::vector<T> weight = random_values<T>(kOutputs * kInputs, -1, 1, 2);
  std::vector<T> y = random_values<T>(kRows * kOutputs, -1, 1, 3);

  FewRows<T> call() { return {kRows, kInputs, kOutputs, x.data(), weight.data(), y.data()}; }
};

template <typename T>
void all_three_are_sums(double tolerance) {
  for (const int threads : {1, 3}) {
    Numbers<T> of, y, x, weight;
    few_rows_forward_cpu(y.call(), threads);
    few_rows_input_cpu(x.call(), threads);
    few_rows_weight_cpu(weight.call(), threads);
    for (int64_t r = 0; r < kRows; ++r)
      for (int64_t m = 0; m < kOutputs; ++m) {
        double sum = 0;
        for (int64_t k = 0; k < kInputs; ++k)
          sum += static_cast<double>(of.x[r * kInputs + k]) * of.weight[m * kInputs + k];
        CHECK_NEAR(y.y[r * kOutputs + m], sum, tolerance);
      }
    for (int64_t k = 0; k < kInputs; ++k) {
      for (int64_t r = 0; r < kRows; ++r) {
        double sum = 0;
        for (int64_t m = 0; m < kOutputs; ++m)
          sum += static_cast<double>(of.y[r * kOutputs + m]) * of.weight[m * kInputs + k];
        CHECK_NEAR(x.x[r * kInputs + k], sum, tolerance);
      }
      for (int64_t m = 0; m < kOutputs; ++m) {
        double sum = 0;
        for (int64_t r = 0; r < kRows; ++r)
          sum += static_cast<double>(of.y[r * kOutputs + m]) * of.x[r * kInputs + k];
        CHECK_NEAR(weight.weight[m * kInputs + k], sum, tolerance);
      }
    }
  }
}

}  // namespace

TEST(few_rows_of_float) {
  all_three_are_sums<float>(1e-5);
}
TEST(few_rows_of_double) {
  all_three_are_sums<double>(1e-13);
}
