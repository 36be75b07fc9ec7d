// Reproducible random test data.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

// n values, uniform in [low, high).
template <typename T>
std::vector<T> random_values(int64_t n, T low, T high, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<T> values(static_cast<size_t>(n));
  for (T& value : values) {
    const double unit = static_cast<double>(random()) / 4294967296.0;
    value = static_cast<T>(static_cast<double>(low) + unit * static_cast<double>(high - low));
  }
  return values;
}
