// Occupancy grids: worked values, traversal beside a loop over all cells, the CPU code, and the
// CUDA code on the CPU.
#include <algorithm>
#include <utility>

#include "check.h"
#include "cuda_emulation.h"
#include "epigraf/launch.h"
#include "random_values.h"

using namespace epigraf;

namespace {

const Stream kStream = {0, nullptr};
constexpr int64_t kSide = 32;

std::vector<uint32_t> random_words(int64_t batch, double share, unsigned seed) {
  const auto values = random_values<double>(batch * kSide * kSide * kSide, 0, 1, seed);
  std::vector<uint32_t> words(batch * words_of_grid(kSide));
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] < share) words[i / 32] |= uint32_t(1) << (i % 32);
  }
  return words;
}

template <typename T>
struct Found {
  std::vector<int64_t> counts, rays;
  std::vector<T> starts, ends;
};

template <typename T>
struct Problem {
  int64_t batch, rays;
  std::vector<uint32_t> words;
  std::vector<T> origins, directions, near, far;
  T step = 0;

  Problem(int64_t b, int64_t r, double share)
      : batch(b),
        rays(r),
        words(random_words(b, share, 1)),
        origins(random_values<T>(b * r * 3, T(-1.5), T(1.5), 2)),
        directions(random_values<T>(b * r * 3, T(-1), T(1), 3)),
        near(b * r, T(0)),
        far(b * r, T(10)) {}

  // threads 0: the CUDA code.
  Found<T> traverse(int threads) const {
    Found<T> found;
    found.counts.assign(batch * rays, -1);
    OccupancyTraverse<T> p{batch,       rays,         kSide,          T(1),
                           step,        words.data(), origins.data(), directions.data(),
                           near.data(), far.data(),   nullptr,        found.counts.data(),
                           nullptr,     nullptr,      nullptr};
    const auto run = [&] {
      threads > 0 ? occupancy_traverse_cpu(p, threads) : occupancy_traverse_cuda(p, kStream);
    };
    run();
    std::vector<int64_t> offsets(found.counts.size());
    int64_t total = 0;
    for (size_t i = 0; i < offsets.size(); ++i) offsets[i] = total, total += found.counts[i];
    found.rays.assign(total, -1);
    found.starts.assign(total, T(-1));
    found.ends.assign(total, T(-1));
    p.offsets = offsets.data();
    p.ray_indices = found.rays.data();
    p.t_starts = found.starts.data();
    p.t_ends = found.ends.data();
    run();
    return found;
  }
};

// Every occupied cell cut with the ray on its own, and touching pieces joined.
std::vector<std::pair<double, double>> brute_force(const Problem<double>& p, int64_t ray) {
  std::vector<std::pair<double, double>> pieces, joined;
  const double *o = &p.origins[3 * ray], *d = &p.directions[3 * ray];
  for (int64_t cell = 0; cell < kSide * kSide * kSide; ++cell) {
    const int64_t at[3] = {cell / kSide / kSide, cell / kSide % kSide, cell % kSide};
    const uint32_t word = p.words[ray / p.rays * words_of_grid(kSide) + cell / 32];
    if (!(word >> (cell % 32) & 1u)) continue;
    double low = p.near[ray], high = p.far[ray];
    for (int i = 0; i < 3; ++i) {
      const double a = (double(2 * at[i] - kSide) / kSide - o[i]) / d[i];
      const double b = (double(2 * at[i] + 2 - kSide) / kSide - o[i]) / d[i];
      low = std::max(low, std::min(a, b));
      high = std::min(high, std::max(a, b));
    }
    if (low < high) pieces.emplace_back(low, high);
  }
  std::sort(pieces.begin(), pieces.end());
  for (const auto& piece : pieces) {
    if (!joined.empty() && piece.first <= joined.back().second) {
      joined.back().second = std::max(joined.back().second, piece.second);
    } else {
      joined.push_back(piece);
    }
  }
  return joined;
}

}  // namespace

TEST(traversal_beside_brute_force) {
  for (double share : {0.0, 0.02, 0.5, 1.0}) {
    const Problem<double> p(2, 33, share);
    const Found<double> found = p.traverse(2);
    int64_t at = 0;
    for (int64_t ray = 0; ray < 66; ++ray) {
      const auto expected = brute_force(p, ray);
      CHECK_EQUAL(found.counts[ray], int64_t(expected.size()));
      for (const auto& [low, high] : expected) {
        CHECK_EQUAL(found.rays[at], ray);
        CHECK_NEAR(found.starts[at], low, 1e-12);
        CHECK_NEAR(found.ends[at], high, 1e-12);
        ++at;
      }
    }
    CHECK_EQUAL(at, int64_t(found.rays.size()));
  }
}

template <typename T>
static void check_cuda_traverses_as_the_cpu() {
  for (int64_t rays : {0, 1, 31, 33, 300}) {
    Problem<T> p(2, rays, 0.1);
    p.step = T(0.013);
    const Found<T> a = p.traverse(1), b = p.traverse(0);
    CHECK(a.counts == b.counts);
    CHECK(a.rays == b.rays);
    CHECK(a.starts == b.starts);
    CHECK(a.ends == b.ends);
  }
}

TEST(cuda_traverses_as_the_cpu) {
  check_cuda_traverses_as_the_cpu<float>();
  check_cuda_traverses_as_the_cpu<double>();
}

TEST(a_ray_without_direction_stays_in_its_cell) {
  Problem<double> p(1, 2, 1.0);
  p.origins = {0.1, 0.1, 0.1, 1.1, 0, 0};
  p.directions.assign(6, 0.0);
  const auto found = p.traverse(1);
  CHECK_EQUAL(found.counts[0], int64_t(1));
  CHECK_EQUAL(found.starts[0], 0.0);
  CHECK_EQUAL(found.ends[0], 10.0);
  CHECK_EQUAL(found.counts[1], int64_t(0));
}

TEST(pieces_of_an_interval) {
  CHECK_EQUAL(pieces_of_interval(1.0, 0.0), int64_t(1));
  CHECK_EQUAL(pieces_of_interval(1.0, 0.3), int64_t(4));
  CHECK_EQUAL(pieces_of_interval(1.0, 0.25), int64_t(4));
  CHECK_EQUAL(pieces_of_interval(1.0, 5.0), int64_t(1));
  CHECK_EQUAL(pieces_of_interval(1.0, 1e-30), kMostPieces);
  CHECK_EQUAL(pieces_of_interval(double(INFINITY), 1.0), kMostPieces);
}

template <typename T>
static std::vector<uint32_t> build(const std::vector<T>& corners, const std::vector<T>& centres,
                                   int64_t batch, bool cuda) {
  std::vector<uint32_t> dense(batch * words_of_grid(kSide)), words(dense.size());
  const OccupancyBuild<T> p{batch,  kSide,        corners.data(), centres.data(),
                            T(0.9), dense.data(), words.data()};
  cuda ? occupancy_build_cuda(p, kStream) : occupancy_build_cpu(p, 2);
  return words;
}

// One dense sample: the cells around it, and those around them, as far as there are any.
TEST(one_dense_sample_fills_its_neighbourhood) {
  for (bool cuda : {false, true}) {
    std::vector<float> corners(33 * 33 * 33), centres(32 * 32 * 32);
    centres[(0 * 32 + 31) * 32 + 5] = 0.9f;
    corners[(20 * 33 + 10) * 33 + 32] = NAN;
    const auto words = build(corners, centres, 1, cuda);
    for (int64_t cell = 0; cell < 32 * 32 * 32; ++cell) {
      const int64_t x = cell / 32 / 32, y = cell / 32 % 32, z = cell % 32;
      const bool centre = x <= 1 && y >= 30 && z >= 4 && z <= 6;
      const bool corner = x >= 18 && x <= 21 && y >= 8 && y <= 11 && z >= 30;
      CHECK_EQUAL(words[cell / 32] >> (cell % 32) & 1u, uint32_t(centre || corner));
    }
  }
}

TEST(cuda_builds_and_looks_up_as_the_cpu) {
  const auto corners = random_values<double>(2 * 33 * 33 * 33, 0, 0.901, 4);
  const auto centres = random_values<double>(2 * 32 * 32 * 32, 0, 0.901, 5);
  const auto words = build(corners, centres, 2, false);
  CHECK(words == build(corners, centres, 2, true));
  auto points = random_values<double>(2 * 333 * 3, -1.1, 1.1, 6);
  points[7] = NAN;
  std::vector<uint8_t> cpu(666, 7), cuda(666, 8);
  OccupancyLookup<double> p{2, 333, kSide, 1.0, words.data(), points.data(), cpu.data()};
  occupancy_lookup_cpu(p, 2);
  p.occupied = cuda.data();
  occupancy_lookup_cuda(p, kStream);
  CHECK(cpu == cuda);
  for (int64_t i = 0; i < 666; ++i) {
    const OccupancyCells<double> grid = {kSide, words.data() + i / 333 * words_of_grid(kSide), 1.0};
    const double* at = &points[3 * i];
    const bool outside = std::max({std::abs(at[0]), std::abs(at[1]), std::abs(at[2])}) > 1;
    CHECK_EQUAL(may_absorb(grid, at[0], at[1], at[2]), outside || cpu[i]);
  }
}
