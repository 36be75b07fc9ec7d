// Threads and SIMD around philox.h: blocks of four numbers are independent of each other.
#include "epigraf/philox.h"

#include <algorithm>

#include "clones.h"
#include "epigraf/launch.h"

namespace epigraf {
namespace {

constexpr int kBlocks = 64;  // that are computed side by side
constexpr int64_t kBlocksPerTask = 4096;

// The words of kBlocks neighbouring blocks, word by word.
struct Words {
  uint32_t word[4][kBlocks];
};

EPIGRAF_HD void philox_words(uint64_t seed, uint32_t stream, uint64_t first, Words& words) {
  EPIGRAF_SIMD
  for (int i = 0; i < kBlocks; ++i) {
    const PhiloxBlock block = philox_block(seed, stream, first + static_cast<uint64_t>(i));
    words.word[0][i] = block.words[0];
    words.word[1][i] = block.words[1];
    words.word[2][i] = block.words[2];
    words.word[3][i] = block.words[3];
  }
}

template <typename T>
EPIGRAF_HD void numbers_of_words(const Words& words, bool normal, T (&numbers)[4 * kBlocks]) {
  if (normal) {
    for (int i = 0; i < kBlocks; ++i) {
      T* four = numbers + 4 * i;
      philox_normal_pair(words.word[0][i], words.word[1][i], four[0], four[1]);
      philox_normal_pair(words.word[2][i], words.word[3][i], four[2], four[3]);
    }
    return;
  }
  for (int i = 0; i < kBlocks; ++i) {
    for (int k = 0; k < 4; ++k) numbers[4 * i + k] = philox_unit<T>(words.word[k][i]);
  }
}

// The numbers of the blocks [first, last), counted from the one that holds `offset`.
template <typename T>
EPIGRAF_HD void fill_blocks(const PhiloxFill<T>& p, int64_t first, int64_t last) {
  Words words;
  T numbers[4 * kBlocks];
  const int64_t skipped = static_cast<int64_t>(p.offset % 4);
  for (int64_t block = first; block < last; block += kBlocks) {
    philox_words(p.seed, p.stream, p.offset / 4 + static_cast<uint64_t>(block), words);
    numbers_of_words(words, p.normal, numbers);
    const int64_t start = 4 * block - skipped;  // the place of numbers[0]
    const int64_t begin = std::max<int64_t>(start, 0);
    const int64_t end = std::min(start + 4 * std::min<int64_t>(kBlocks, last - block), p.count);
    if (begin < end)
      std::copy(numbers + (begin - start), numbers + (end - start), p.numbers + begin);
  }
}

// target_clones does not apply to templates: one function for each type.
EPIGRAF_CLONES void fill_clones(const PhiloxFill<float>& p, int64_t first, int64_t last) {
  fill_blocks(p, first, last);
}
EPIGRAF_CLONES void fill_clones(const PhiloxFill<double>& p, int64_t first, int64_t last) {
  fill_blocks(p, first, last);
}

}  // namespace

template <typename T>
void philox_fill_cpu(const PhiloxFill<T>& params, int threads) {
  const int64_t blocks = (static_cast<int64_t>(params.offset % 4) + params.count + 3) / 4;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t first = 0; first < blocks; first += kBlocksPerTask) {
    fill_clones(params, first, std::min(first + kBlocksPerTask, blocks));
  }
}

template void philox_fill_cpu(const PhiloxFill<float>&, int);
template void philox_fill_cpu(const PhiloxFill<double>&, int);

}  // namespace epigraf
