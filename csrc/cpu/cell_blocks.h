// A coarse look at an occupancy grid, for many samples at once: blocks of 8^3 cells.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "epigraf/occupancy.h"

namespace epigraf {

template <typename T>
class CellBlocks {
 public:
  static constexpr int64_t kSide = 8;  // cells along the edge of a block

  CellBlocks() = default;

  explicit CellBlocks(const OccupancyCells<T>& grid)
      : half_edge_(grid.half_edge),
        cells_(T(grid.resolution)),
        side_(grid.resolution / kSide),
        blocks_(side_ * side_ * side_) {
    constexpr int64_t kInWord = kCellsOfWord / kSide;
    const int64_t per_row = grid.resolution / kCellsOfWord;
    for (int64_t x = 0; x < grid.resolution; ++x) {
      for (int64_t y = 0; y < grid.resolution; ++y) {
        const uint32_t* row = grid.words + (x * grid.resolution + y) * per_row;
        uint8_t* to = blocks_.data() + (x / kSide * side_ + y / kSide) * side_;
        for (int64_t z = 0; z < side_; ++z) {
          to[z] |= (row[z / kInWord] >> (z % kInWord * kSide) & 0xffu) != 0;
        }
      }
    }
  }

  // Whether a point of the box may lie in an occupied cell or outside the cube; boxes are taken a
  // little larger, so that rounding does not matter.
  bool touch(const T (&low)[3], const T (&high)[3]) const {
    int64_t first[3], last[3];
    for (int i = 0; i < 3; ++i) {
      if (!(low[i] >= -half_edge_ && high[i] <= half_edge_)) return true;
      first[i] = block(low[i], T(-0.01));
      last[i] = block(high[i], T(0.01));
    }
    for (int64_t x = first[0]; x <= last[0]; ++x) {
      for (int64_t y = first[1]; y <= last[1]; ++y) {
        for (int64_t z = first[2]; z <= last[2]; ++z) {
          if (blocks_[(x * side_ + y) * side_ + z]) return true;
        }
      }
    }
    return false;
  }

 private:
  int64_t block(T x, T slack) const {
    const T cell = (x / half_edge_ + T(1)) * (T(0.5) * cells_) + slack;
    return std::clamp<int64_t>(static_cast<int64_t>(cell) / kSide, 0, side_ - 1);
  }

  T half_edge_ = 0, cells_ = 0;
  int64_t side_ = 0;
  std::vector<uint8_t> blocks_;
};

}  // namespace epigraf
