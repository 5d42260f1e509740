// The steps of explicit methods as they are kept for the way back.

#pragma once

#include <cstdint>

#include "explicit_plan.hpp"

namespace thalweg::THALWEG_ISA {

// One accepted step of a tile, as it is kept for the way back. Behind it lie the numbers: the state (D rows) and the slope
// (D) it began with, and where `full`, for each stage that was evaluated, its time (1), state (D), slope (D), and what
// the program saved.
template <class T>
struct Block {
  static constexpr int L = lanes<T>;
  double t[L], h[L];
  std::int32_t sample[L];              // -1 where the step was not accepted
  std::int32_t donor[L];               // the lane whose numbers stand here where it was not
  std::int32_t first_output[L], end_output[L];
  bool last[L];                        // whether the step ends at t1
  bool full, extended;                 // whether stages are kept; whether the extra ones were evaluated
  T* rows;
};

// Blocks of a thread, in the order of its steps.
template <class T>
class Blocks {
public:
  ~Blocks() { clear(); }
  Blocks() = default;
  Blocks(Blocks&&) = delete;

  // Room for one more block, which is not there yet until `keep`.
  Block<T>* open(std::size_t rows) {
    const std::size_t bytes = (sizeof(Block<T>) + 63) / 64 * 64 + rows * lanes<T> * sizeof(T);
    if (chunks_ == 0 || used_ + bytes > capacity_) {
      // twice as much each time, for a solve of few steps should not hold much
      const std::size_t more = chunks_ == 0 ? 2 * bytes : capacity_ < most_bytes ? 2 * capacity_ : capacity_;
      const Chunk chunk = take_chunk(more > bytes ? more : bytes);
      push(memory_, chunks_, chunk_capacity_, chunk);
      capacity_ = chunk.bytes;
      used_ = 0;
      total_ += static_cast<std::int64_t>(capacity_);
    }
    char* const memory = static_cast<char*>(memory_[chunks_ - 1].memory) + used_;
    auto* block = reinterpret_cast<Block<T>*>(memory);
    block->rows = reinterpret_cast<T*>(memory + (sizeof(Block<T>) + 63) / 64 * 64);
    opened_ = bytes;
    return block;
  }
  void keep(Block<T>* block) {
    used_ += opened_;
    push(blocks_, count_, block_capacity_, block);
  }
  int count() const { return count_; }
  Block<T>& operator[](int i) const { return *blocks_[i]; }
  std::int64_t bytes() const { return total_; }

private:
  static constexpr std::size_t most_bytes = std::size_t(1) << 22;

  template <class X>
  static void push(X*& items, int& count, int& capacity, X item) {
    if (count == capacity) {
      capacity = capacity ? 2 * capacity : 16;
      X* more = static_cast<X*>(std::realloc(static_cast<void*>(items), sizeof(X) * static_cast<std::size_t>(capacity)));
      if (!more) throw std::bad_alloc();
      items = more;
    }
    items[count++] = item;
  }
  void clear() {
    for (int i = 0; i < chunks_; ++i) give_chunk(memory_[i]);
    std::free(static_cast<void*>(memory_));
    std::free(static_cast<void*>(blocks_));
  }

  Chunk* memory_ = nullptr;
  Block<T>** blocks_ = nullptr;
  int chunks_ = 0, chunk_capacity_ = 0, count_ = 0, block_capacity_ = 0;
  std::size_t used_ = 0, capacity_ = 0, opened_ = 0;
  std::int64_t total_ = 0;
};

// The rows of every stage of one step: where each is evaluated, and what it gave.
template <class T>
struct Stages {
  Array<T*> time, state, slope, saved;

  explicit Stages(int all) : time(all), state(all), slope(all), saved(all) {}

  // Lets all stages from `first` on lie in a block behind its state and slope; earlier ones have no rows but these.
  void lie_in(const ExplicitPlan<T>& plan, const Block<T>& block, int first) {
    const std::ptrdiff_t state_rows = static_cast<std::ptrdiff_t>(plan.program.dimension) * lanes<T>;
    const std::ptrdiff_t saved_rows = static_cast<std::ptrdiff_t>(plan.program.record.saved) * lanes<T>;
    T* at = block.rows;
    state[0] = at;
    slope[0] = at + state_rows;
    at += 2 * state_rows;
    for (int i = first; i < plan.all; ++i) {
      time[i] = at;
      at += lanes<T>;
      if (i > 0) {
        state[i] = at;
        at += state_rows;
        slope[i] = at;
        at += state_rows;
      }
      saved[i] = at;
      at += saved_rows;
    }
  }
  static std::size_t rows_of(const ExplicitPlan<T>& plan, int first, bool full) {
    const std::size_t each = 1 + 2 * static_cast<std::size_t>(plan.program.dimension) + plan.program.record.saved;
    return 2 * static_cast<std::size_t>(plan.program.dimension) + (full ? each * (plan.all - first) : 0);
  }
};

}  // namespace thalweg::THALWEG_ISA
