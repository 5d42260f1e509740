// The steps of explicit methods as they are kept for the way back.

#pragma once

#include <cstdint>
#include <utility>

#include "explicit_plan.hpp"

namespace thalweg::THALWEG_ISA {

template <class X>
void push(X*& items, int& count, int& capacity, X item) {
  if (count == capacity) {
    capacity = capacity ? 2 * capacity : 16;
    X* more = static_cast<X*>(std::realloc(static_cast<void*>(items), sizeof(X) * static_cast<std::size_t>(capacity)));
    if (!more) throw std::bad_alloc();
    items = more;
  }
  items[count++] = item;
}

// One accepted step of a tile, as it is kept for the way back. Behind it lie the numbers: the state (D rows) and the slope
// (D) it began with, and where `full`, for each stage that was evaluated, its time (1), state (D), slope (D) where it
// is needed, and what the program saved.
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

// Room for the blocks of one thread, whichever tile they are of.
class Store {
public:
  Store() = default;
  Store(Store&&) = delete;
  ~Store() {
    for (int i = 0; i < count_; ++i) give_chunk(chunks_[i]);
    std::free(static_cast<void*>(chunks_));
  }

  char* take(std::size_t bytes) {
    if (count_ == 0 || used_ + bytes > capacity_) {
      // twice as much each time, for a solve of few steps should not hold much
      const std::size_t more = count_ == 0 ? 2 * bytes : capacity_ < most_bytes ? 2 * capacity_ : capacity_;
      const Chunk chunk = take_chunk(more > bytes ? more : bytes);
      push(chunks_, count_, room_, chunk);
      capacity_ = chunk.bytes;
      used_ = 0;
      total_ += static_cast<std::int64_t>(capacity_);
    }
    return static_cast<char*>(chunks_[count_ - 1].memory) + std::exchange(used_, used_ + bytes);
  }
  std::int64_t bytes() const { return total_; }

private:
  static constexpr std::size_t most_bytes = std::size_t(1) << 22;
  Chunk* chunks_ = nullptr;
  int count_ = 0, room_ = 0;
  std::size_t used_ = 0, capacity_ = 0;
  std::int64_t total_ = 0;
};

// Blocks of a tile, in the order of its steps.
template <class T>
class Blocks {
public:
  Blocks() = default;
  Blocks(Blocks&&) = delete;
  ~Blocks() { std::free(static_cast<void*>(blocks_)); }

  void lie_in(Store& store) { store_ = &store; }

  // A block that is not there yet until it is kept; one that was not is had again.
  Block<T>* open(std::size_t rows) {
    if (!opened_) opened_ = made(rows);
    return opened_;
  }
  void keep() { push(blocks_, count_, capacity_, std::exchange(opened_, nullptr)); }
  // Keeps the first rows of the open block.
  void keep_part(std::size_t rows) {
    Block<T>* const part = made(rows);
    T* const at = part->rows;
    *part = *opened_;
    part->rows = at;
    std::memcpy(at, opened_->rows, rows * lanes<T> * sizeof(T));
    push(blocks_, count_, capacity_, part);
  }
  int count() const { return count_; }
  Block<T>& operator[](int i) const { return *blocks_[i]; }
  std::int64_t bytes() const { return total_; }

private:
  Store* store_ = nullptr;
  Block<T>** blocks_ = nullptr;
  Block<T>* opened_ = nullptr;
  int count_ = 0, capacity_ = 0;
  std::int64_t total_ = 0;

  Block<T>* made(std::size_t rows) {
    constexpr std::size_t head = (sizeof(Block<T>) + 63) / 64 * 64;
    const std::size_t bytes = head + rows * lanes<T> * sizeof(T);
    char* const memory = store_->take(bytes);
    auto* block = reinterpret_cast<Block<T>*>(memory);
    block->rows = reinterpret_cast<T*>(memory + head);
    total_ += static_cast<std::int64_t>(bytes);
    return block;
  }
};

// The rows of every stage of one step: where each is evaluated, and what it gave. Slopes that no block keeps lie where they
// are put.
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
        if (plan.keeps_slopes()) slope[i] = at, at += state_rows;
      }
      saved[i] = at;
      at += saved_rows;
    }
  }
  static std::size_t rows_of(const ExplicitPlan<T>& plan, int first, bool full) {
    return 2 * static_cast<std::size_t>(plan.program.dimension) + (full ? rows_of_one(plan) * (plan.all - first) : 0);
  }
  static std::size_t rows_of_one(const ExplicitPlan<T>& plan) {
    const std::size_t state = plan.program.dimension;
    return 1 + state * (plan.keeps_slopes() ? 2 : 1) + plan.program.record.saved;
  }
};

}  // namespace thalweg::THALWEG_ISA
