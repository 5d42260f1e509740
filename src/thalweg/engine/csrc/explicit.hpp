// A step of an explicit Runge–Kutta method, for the lanes of a tile, and what is kept of it for the way back.

#pragma once

#include "blocks.hpp"
#include "tile.hpp"

namespace thalweg::THALWEG_ISA {

// A family of `Tile`.
template <class T>
class Explicit {
public:
  static constexpr int L = lanes<T>, W = Vec<T>::lanes;
  using Scalar = T;
  using Plan = ExplicitPlan<T>;
  using Record = Blocks<T>;

  // Times, states and slopes of stages, where blocks do not hold them.
  static std::size_t workspace_rows(const Plan& plan) {
    const std::size_t state = plan.program.dimension, slopes = state * plan.all;
    if (plan.task.record) return plan.keeps_slopes() ? 0 : slopes;
    return 1 + 2 * state + slopes;
  }

  // `blocks` where steps are recorded.
  Explicit(const Plan& plan, Blocks<T>* blocks, T* scratch, T* workspace)
      : plan_(plan), blocks_(blocks), D(plan.program.dimension), S(plan.method.stages), first_(plan.method.fsal ? 1 : 0),
        scratch_(scratch), stages_(plan.all) {
    const std::size_t state = static_cast<std::size_t>(D) * L;
    // where a step begins and ends: the slopes, and the state
    numbers_.resize(3 * state);
    numbers_.calm();
    carried_ = numbers_.data(), new_slope_ = carried_ + state, new_y_ = new_slope_ + state;
    const auto take = [&](std::size_t count) { return std::exchange(workspace, workspace + count); };
    const auto ends = [&](int i) { return first_ && i == S - 1; };
    if (!blocks || !plan.keeps_slopes())
      for (int i = 0; i < plan.all; ++i) stages_.slope[i] = i == 0 ? carried_ : ends(i) ? new_slope_ : take(state);
    if (blocks) return;
    T* const time = take(L);
    T* const between = take(state);
    for (int i = 0; i < plan.all; ++i) {
      stages_.time[i] = time;
      stages_.state[i] = ends(i) ? new_y_ : between;
      stages_.saved[i] = nullptr;
    }
  }

  void begin(int lane, const T* slope, int from) {
    for (int d = 0; d < D; ++d) carried_[d * L + lane] = slope[d * L + from];
  }

  void attempt(Step<T>& step) {
    if (blocks_) {
      block_ = blocks_->open(Stages<T>::rows_of(plan_, first_, true));
      block_->full = kept_whole();
      stages_.lie_in(plan_, *block_, first_);
      copy_rows(step.y, stages_.state[0], D);
      if (first_) copy_rows(carried_, stages_.slope[0], D);
      lend_to_idle(step);
    } else {
      stages_.state[0] = step.y;
    }
    for (int i = first_; i < S; ++i) evaluate_stage(i, step);
    step.ended = stages_.state[S - 1];  // where the last stage is evaluated at the end of the step
    if (!plan_.method.fsal) {
      step.ended = new_y_;
      combine(stages_.state[0], stages_.slope.data(), plan_.end(), step.size, new_y_, D);
    }
    step.nfev = S - first_, step.njev = step.nlu = 0;
  }

  // Sums of squares of rows of the error relative to what is allowed, and of the coarse one.
  void squares(Step<T>& step, int first, int end) const {
    const T* const y = stages_.state[0];
    const T* const* const slope = stages_.slope.data();
    const bool coarse = plan_.tempered();
    const Terms<T> terms = plan_.error();
    Vec<T> size[row_registers], total[row_registers], coarse_total[row_registers];
#pragma GCC unroll 4
    for (int j = 0; j < row_registers; ++j)
      size[j] = Vec<T>::load(step.size + j * W), total[j] = coarse_total[j] = Vec<T>(T(0));
    for (int d = first; d < end; ++d) {
      const auto sum = [&](const T* weights, Vec<T>* found) {
#pragma GCC unroll 4
        for (int j = 0; j < row_registers; ++j) found[j] = Vec<T>(T(0));
        for (int n = 0; n < terms.count; ++n) {
          const Vec<T> w(weights[n]);
          const T* const term = slope[terms.numbers[n]] + d * L;
#pragma GCC unroll 4
          for (int j = 0; j < row_registers; ++j) found[j] = fma(Vec<T>::load(term + j * W), w, found[j]);
        }
      };
      Vec<T> error[row_registers], other[row_registers];
      sum(terms.weights, error);
      if (coarse) sum(plan_.coarse(), other);
#pragma GCC unroll 4
      for (int j = 0; j < row_registers; ++j) {
        const int at = d * L + j * W;
        const Vec<T> largest = max(abs(Vec<T>::load(y + at)), abs(Vec<T>::load(step.ended + at)));
        // so small at times that 1 / it is infinite
        const Vec<T> allowed = fma(largest, Vec<T>(plan_.rtol(d)), Vec<T>(plan_.atol(d)));
        const auto add_square = [&](Vec<T> x, Vec<T>& to) {
          x = x * size[j] / allowed;
          to = fma(x, x, to);
        };
        add_square(error[j], total[j]);
        if (coarse) add_square(other[j], coarse_total[j]);
      }
    }
#pragma GCC unroll 4
    for (int j = 0; j < row_registers; ++j)
      total[j].store(step.squares + j * W), coarse_total[j].store(step.squares + L + j * W);
  }

  // For a step whose size is given: 0 where its end and its error are finite, as that sees stages that the end does not;
  // NaN elsewhere, as infinity times 0 is.
  void blemish(Step<T>& step) const {
    const Terms<T>& terms = plan_.error();
    for (int j = 0; j < L; j += W) {
      Vec<T> total(T(0));
      for (int at = j; at < D * L; at += L) {
        Vec<T> error(T(0));
        for (int n = 0; n < terms.count; ++n)
          error += Vec<T>::load(stages_.slope[terms.numbers[n]] + at) * Vec<T>(terms.weights[n]);
        total += (Vec<T>::load(step.ended + at) + error * Vec<T>::load(step.size + j)) * T(0);
      }
      total.store(step.squares + j);
    }
  }

  int extend(const Step<T>& step) {
    for (int i = S; i < plan_.all; ++i) evaluate_stage(i, step);
    return plan_.method.extra;
  }

  const T* const* terms() const { return stages_.slope.data(); }

  void settle(const Step<T>& step, bool extended) {
    if (!step.any) return;
    if (block_) record(step, extended);
    if (plan_.method.fsal) copy_accepted(step, stages_.slope[S - 1], carried_, D);
    if (block_) shut();
  }

private:
  const Plan& plan_;
  Blocks<T>* blocks_;
  const int D, S, first_;
  T* scratch_;
  Stages<T> stages_;
  Array<T> numbers_;
  T *carried_, *new_slope_, *new_y_;
  Block<T>* block_ = nullptr;  // of the step that is being tried

  void evaluate_stage(int i, const Step<T>& step) {
    T* const time = stages_.time[i];
    const double c = plan_.method.c[i];
    if (plan_.timed)
      for (int l = 0; l < L; ++l) time[l] = static_cast<T>(step.t[l] + c * step.h[l]);
    if (i > 0)
      combine(stages_.state[0], stages_.slope.data(), plan_.stage(i), step.size, stages_.state[i], D);
    evaluate(blocks_ ? plan_.record : plan_.plain,
             frame_of(scratch_, stages_.saved[i], time, stages_.state[i], stages_.slope[i], step.own));
  }

  bool kept_whole() const {
    const std::int64_t tiles = plan_.control.joint ? (plan_.task.batch + L - 1) / L : plan_.task.threads;
    return blocks_->bytes() * tiles <= plan_.task.memory_limit;
  }

  void record(const Step<T>& step, bool extended) {
    for (int l = 0; l < L; ++l) {
      block_->t[l] = step.t[l];
      block_->h[l] = step.h[l];
      block_->sample[l] = step.accept[l] ? static_cast<std::int32_t>(step.sample[l]) : -1;
      block_->first_output[l] = static_cast<std::int32_t>(step.output[l]);
      block_->end_output[l] = static_cast<std::int32_t>(step.end_output[l]);
      block_->last[l] = step.lands[l];
    }
    block_->extended = extended && plan_.method.extra > 0;
    lend(*block_, step);
  }

  // A step that is not kept whole gives back the room of its stages.
  void shut() {
    if (block_->full)
      blocks_->keep();
    else
      blocks_->keep_part(Stages<T>::rows_of(plan_, first_, false));
  }

  // In a recorded step, lanes that did not accept have the numbers of one that did: in sums over lanes theirs count for
  // nothing, but 0 times infinity would be NaN. Those that carry no sample have another's from the start.
  void lend_to_idle(Step<T>& step) const {
    const int donor = first_of(step, [](const Step<T>& s, int l) { return s.sample[l] >= 0; });
    const auto lend = [&](T* rows, int count, int l) {
      for (int row = 0; row < count; ++row) rows[row * L + l] = rows[row * L + donor];
    };
    for (int l = 0; l < L; ++l) {
      if (step.sample[l] >= 0) continue;
      step.t[l] = step.t[donor], step.h[l] = step.h[donor], step.size[l] = step.size[donor];
      lend(stages_.state[0], D, l);
      if (first_) lend(stages_.slope[0], D, l);
      lend(step.own, plan_.program.own, l);
    }
  }
  void lend(Block<T>& block, const Step<T>& step) const {
    const int donor = first_of(step, [](const Step<T>& s, int l) { return s.accept[l]; });
    for (int l = 0; l < L; ++l) {
      block.donor[l] = step.accept[l] ? l : donor;
      if (!step.accept[l]) block.t[l] = block.t[donor], block.h[l] = block.h[donor];
    }
    if (step.all) return;
    Mask<T> own[row_registers];
    for (int j = 0; j < row_registers; ++j) own[j] = Vec<T>::load(step.accept + j * W) != Vec<T>(T(0));
    const std::size_t rows = Stages<T>::rows_of(plan_, first_, block.full) -
                             (block.full && !block.extended ? extra_rows() : 0);
    for (T* at = block.rows; at < block.rows + rows * L; at += L) {
      const Vec<T> lent(at[donor]);
      for (int j = 0; j < row_registers; ++j) select(own[j], Vec<T>::load(at + j * W), lent).store(at + j * W);
    }
  }
  template <class Is>
  static int first_of(const Step<T>& step, Is is) {
    int l = 0;
    while (!is(step, l)) ++l;
    return l;
  }
  std::size_t extra_rows() const {
    return static_cast<std::size_t>(plan_.method.extra) * Stages<T>::rows_of_one(plan_);
  }
};

}  // namespace thalweg::THALWEG_ISA
