// A coarse look at an occupancy grid, for many samples at once: blocks of 4^3 cells.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "epigraf/occupancy.h"

namespace epigraf {

template <typename T>
class CellBlocks {
 public:
  static constexpr int kSide = 4;  // cells along the edge of a block

  CellBlocks() = default;

  explicit CellBlocks(const OccupancyCells<T>& grid)
      : half_edge_(grid.half_edge),
        half_(T(0.5) * T(grid.resolution)),
        scale_(half_ / grid.half_edge),
        side_(static_cast<int>(grid.resolution / kSide)),
        blocks_(static_cast<size_t>(side_) * side_ * side_) {
    constexpr int64_t kInWord = kCellsOfWord / kSide;
    const int64_t n = grid.resolution, per_row = n / kCellsOfWord;
    for (int64_t column = 0; column < side_ * side_; ++column) {  // of blocks, along z
      const int64_t x = column / side_ * kSide, y = column % side_ * kSide;
      for (int64_t word = 0; word < per_row; ++word) {
        uint32_t any = 0;
        for (int64_t i = 0; i < kSide * kSide; ++i) {
          any |= grid.words[((x + i / kSide) * n + y + i % kSide) * per_row + word];
        }
        for (int64_t z = 0; z < kInWord; ++z) {
          blocks_[column * side_ + word * kInWord + z] =
              (any >> (z * kSide) & ((1u << kSide) - 1u)) != 0;
        }
      }
    }
  }

  // Whether a point of the box may lie in an occupied cell or outside the cube; boxes are taken a
  // little larger, so that rounding does not matter.
  bool touch(const T (&low)[3], const T (&high)[3]) const {
    int first[3], last[3];
    for (int i = 0; i < 3; ++i) {
      if (!(low[i] >= -half_edge_ && high[i] <= half_edge_)) return true;
      first[i] = block(low[i], T(-0.01));
      last[i] = block(high[i], T(0.01));
    }
    for (int x = first[0]; x <= last[0]; ++x) {
      for (int y = first[1]; y <= last[1]; ++y) {
        for (int z = first[2]; z <= last[2]; ++z) {
          if (blocks_[(x * side_ + y) * side_ + z]) return true;
        }
      }
    }
    return false;
  }

 private:
  int block(T x, T slack) const {
    const int cell = static_cast<int>(x * scale_ + (half_ + slack));
    return std::clamp(cell / kSide, 0, side_ - 1);
  }

  T half_edge_ = 0, half_ = 0, scale_ = 0;  // of the cube; in cells; cells of a unit
  int side_ = 0;
  std::vector<uint8_t> blocks_;
};

}  // namespace epigraf
