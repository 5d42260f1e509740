// The exact gradient of a solve by an explicit method: back through the steps that were accepted.
//
// Each thread goes back through the blocks that it recorded, lane by lane as it came. The sums of gradients that samples
// share have an order that depends on the number of threads and on nothing else.

#pragma once

#include "batching.hpp"
#include "explicit.hpp"

namespace thalweg::THALWEG_ISA {

// How the products of a weight's gradient are summed up: lane by lane where it is small, otherwise as rows by columns, or
// as columns by rows where there are fewer rows.
enum class Form { lanes, straight, turned };

template <class T>
Form form_of(int rows, int columns) {
  if (static_cast<std::size_t>(rows) * columns * lanes<T> * sizeof(T) <= std::size_t(1) << 14) return Form::lanes;
  return columns <= rows ? Form::straight : Form::turned;
}

template <class T>
std::size_t room_of(int rows, int columns) {
  switch (form_of<T>(rows, columns)) {
    case Form::lanes: return static_cast<std::size_t>(rows) * columns * lanes<T>;
    case Form::straight: return static_cast<std::size_t>(rows) * padded<T>(columns);
    default: return static_cast<std::size_t>(columns) * padded<T>(rows);
  }
}

// The way back of one thread.
template <class T>
class Return {
public:
  static constexpr int L = lanes<T>, W = Vec<T>::lanes;

  Return(const ExplicitPlan<T>& plan, const Back<T>& back)
      : plan_(plan), back_(back), D(plan.program.dimension), S(plan.method.stages),
        first_(plan.method.fsal ? 1 : 0), all_(plan.all), times_(back.t0 || back.t1 || back.t_eval), stages_(plan.all),
        slopes_(plan.all) {
    const Program& program = plan.program;
    const auto rows = [](std::size_t count) { return count * L; };
    const std::size_t state = rows(D), own = rows(program.own), adjoint = rows(program.adjoint_rows);
    const std::size_t kept = rows(program.kept_rows) * all_, block = rows(Stages<T>::rows_of(plan, first_, true));
    const std::size_t scratch = rows(program.record.scratch + 1), saved = rows(program.record.saved + 1);
    numbers_.resize(state * (4 + 2 * all_) + 2 * own + adjoint + kept + block + scratch + saved + 2 * L);
    numbers_.calm();
    T* at = numbers_.data();
    const auto take = [&](std::size_t count) { return std::exchange(at, at + count); };
    y_ = take(state), carried_ = take(state), new_y_ = take(state), local_ = take(state);
    for (int i = 0; i < all_; ++i) slopes_[i] = take(state), stages_.slope[i] = take(state);
    own_ = take(own), own_adjoint_ = take(own);
    adjoint_ = take(adjoint), kept_ = take(kept);
    again_.rows = take(block);
    scratch_ = take(scratch), start_saved_ = take(saved);
    size_ = take(L), time_ = take(L);
    for (int l = 0; l < L; ++l) sample_[l] = own_of_[l] = -1, t_[l] = 0, h_[l] = 0;
    make_room();
  }

  // Goes back through what was recorded of the samples [first, end); `status` and `accepted` are those of all.
  void run(const Blocks<T>& blocks, std::int64_t first, std::int64_t end, const std::int64_t* status,
           const std::int64_t* accepted, bool caller) {
    status_ = status;
    range_first_ = first;
    if (first_) starts_.resize(static_cast<std::size_t>(end - first) * D), starts_.zero();
    for (int i = blocks.count(); i-- > 0;) {
      heed(back_.interruption, caller);
      step(blocks[i], i > 0 ? &blocks[i - 1] : nullptr);
    }
    for (int l = 0; l < L; ++l)
      if (sample_[l] >= 0) leave(l);
    if (first_) begin(first, end, accepted);
    if (back_.y0) ends(first, end, accepted);
  }

  // Adds what this thread summed up to the gradients of shared tensors.
  void deliver() const {
    const Program& program = plan_.program;
    for (std::size_t n = 0; n < program.shared.size(); ++n) {
      if (!rows_[n]) continue;
      for (std::ptrdiff_t e = 0; e < program.shared[n]; ++e) back_.shared[n][e] += sum_of(rows_[n] + e * L);
    }
    for (std::size_t i = 0; i < program.code.size(); ++i) {
      if (!weights_[i]) continue;
      const Instruction& code = program.code[i];
      const std::ptrdiff_t rows = code.index[1], columns = code.index[2];
      const Form form = form_of<T>(code.index[1], code.index[2]);
      T* to = back_.shared[code.operands[1].number] + code.operands[1].row;
      for (std::ptrdiff_t r = 0; r < rows; ++r)
        for (std::ptrdiff_t k = 0; k < columns; ++k, ++to) {
          if (form == Form::straight)
            *to += weights_[i][r * padded<T>(code.index[2]) + k];
          else if (form == Form::turned)
            *to += weights_[i][k * padded<T>(code.index[1]) + r];
          else
            *to += sum_of(weights_[i] + (r * columns + k) * L);
        }
    }
  }

  static T sum_of(const T* row) {
    T sum(0);
    for (int l = 0; l < L; ++l) sum += row[l];
    return sum;
  }

  // Of the field, each of one sample.
  std::int64_t evaluations() const { return evaluations_; }

private:
  const ExplicitPlan<T>& plan_;
  const Back<T>& back_;
  const int D, S, first_, all_;
  const bool times_;
  Stages<T> stages_;
  Array<T*> slopes_;  // adjoints of the slopes of all stages
  Array<T> numbers_, totals_, panel_;
  Array<T*> rows_, weights_;  // where gradients of shared tensors are summed up
  Array<const T*> left_, right_;
  Ahead ahead_;
  Block<T> again_;  // a block whose stages are computed again
  // adjoints of the state, of the slope that a step began with, of the state that it came to, and of the state once more
  T *y_, *carried_, *new_y_, *local_;
  T *own_, *own_adjoint_, *adjoint_, *kept_, *scratch_, *start_saved_, *size_, *time_;
  std::int64_t sample_[L], own_of_[L];
  double t_[L], h_[L];  // adjoints of the time that a sample began at, and of the time that it ended at
  const std::int64_t* status_ = nullptr;
  std::int64_t range_first_ = 0, evaluations_ = 0;
  Array<T> starts_;  // adjoints of the slope that each sample began with

  // Room for the gradients of shared tensors that are wanted.
  void make_room() {
    const Program& program = plan_.program;
    rows_.resize(program.shared.size());
    weights_.resize(program.code.size());
    std::size_t depth = 1;
    const auto deal = [&](T* at) {
      T* const begin = at;
      for (std::size_t n = 0; n < program.shared.size(); ++n) rows_[n] = nullptr;
      for (std::size_t i = 0; i < program.code.size(); ++i) {
        const Instruction& code = program.code[i];
        weights_[i] = nullptr;
        for (std::size_t n = 0; n < code.operands.size(); ++n) {
          const Operand& x = code.operands[n];
          if (!x.shared || !back_.shared[x.number]) continue;
          if (code.op == Op::linear && n == 1) {
            weights_[i] = at;
            at += room_of<T>(code.index[1], code.index[2]);
            if (static_cast<std::size_t>(code.index[0]) > depth) depth = code.index[0];
          } else if (!rows_[x.number]) {
            rows_[x.number] = at;
            at += static_cast<std::size_t>(program.shared[x.number]) * L;
          }
        }
      }
      return static_cast<std::size_t>(at - begin);
    };
    alignas(64) T nowhere[L];
    totals_.resize(deal(nowhere));  // to count; dealt anew below
    totals_.zero();
    deal(totals_.data());
    depth *= static_cast<std::size_t>(all_);
    left_.resize(depth);
    right_.resize(depth);
    panel_.resize(depth * L * L);
  }

  SharedGradients<T> gradients() const { return {rows_.data(), weights_.data()}; }

  Frame<T> frame(int i) const {
    return frame_of(scratch_, stages_.saved[i], stages_.time[i], stages_.state[i], stages_.slope[i], own_);
  }

  void load_own(int lane, std::int64_t sample) {
    if (own_of_[lane] == sample) return;
    own_of_[lane] = sample;
    const Program& program = plan_.program;
    T* rows = own_;
    for (int v = 2; v < program.inputs; rows += program.sizes[v++] * L)
      put_column(plan_.task.own[v - 2] + sample * program.sizes[v], rows, lane, program.sizes[v]);
  }
  void give_own(int lane, std::int64_t sample, const T* rows) {
    const Program& program = plan_.program;
    for (int v = 2; v < program.inputs; rows += program.sizes[v++] * L)
      if (T* to = back_.own[v - 2])
        for (int r = 0; r < program.sizes[v]; ++r) to[sample * program.sizes[v] + r] += rows[r * L + lane];
  }

  const T* cotangent(std::int64_t output, std::int64_t sample) const {
    return back_.cotangent + (output * plan_.task.batch + sample) * D;
  }

  // A lane comes to the last step of a sample.
  void enter(int l, std::int64_t s) {
    sample_[l] = s;
    t_[l] = h_[l] = 0;
    const bool seeded = !plan_.task.t_eval && status_[s] == static_cast<std::int64_t>(Status::success);
    for (int d = 0; d < D; ++d) {
      y_[d * L + l] = seeded ? cotangent(1, s)[d] : T(0);
      carried_[d * L + l] = 0;
    }
    for (int r = 0; r < plan_.program.own; ++r) own_adjoint_[r * L + l] = 0;
  }

  // A lane has come to the start of its sample.
  void leave(int l) {
    const std::int64_t s = sample_[l];
    if (back_.y0)
      for (int d = 0; d < D; ++d) back_.y0[s * D + d] += y_[d * L + l];
    if (first_) take_column(carried_, l, starts_.data() + (s - range_first_) * D, D);
    give_own(l, s, own_adjoint_);
    if (back_.t0) back_.t0[s] += t_[l];
    if (back_.t1) back_.t1[s] += h_[l];
    sample_[l] = -1;
  }

  // Back through a step; `next` comes after it on the way back, and may be null.
  void step(const Block<T>& block, const Block<T>* next) {
    const int evaluated = block.extended ? all_ : S;
    T mask[L];
    for (int l = 0; l < L; ++l) {
      const std::int64_t s = block.sample[l];
      mask[l] = s >= 0 ? T(1) : T(0);
      size_[l] = static_cast<T>(block.h[l]);
      if (s >= 0 && s != sample_[l]) {
        if (sample_[l] >= 0) leave(l);
        enter(l, s);
      }
    }
    if (plan_.program.own)
      for (int l = 0; l < L; ++l) load_own(l, block.sample[block.donor[l]]);
    restore(block, evaluated);

    double time_adjoint[L] = {}, size_adjoint[L] = {};
    for (int i = 0; i < all_; ++i) zero_rows(slopes_[i], D);
    each<T>(D, [&](int row, int j) {
      const int at = row * L + j * W;
      const auto accepted = Vec<T>::load(mask + j * W) != Vec<T>(T(0));
      const Vec<T> ended = select(accepted, Vec<T>::load(y_ + at), Vec<T>(T(0)));
      ended.store(new_y_ + at);
      ended.store(local_ + at);
      if (first_) select(accepted, Vec<T>::load(carried_ + at), Vec<T>(T(0))).store(slopes_[S - 1] + at);
    });
    outputs(block, time_adjoint, size_adjoint);
    spread(new_y_, plan_.end());
    if (times_) by_size(new_y_, plan_.end(), size_adjoint);

    for (int i = evaluated; i-- > first_;) {
      const Adjoints<T> adjoints{adjoint_, kept_ + static_cast<std::ptrdiff_t>(i) * plan_.program.kept_rows * L};
      look_ahead(i, block, next);
      pull_back(plan_.record, frame(i), slopes_[i], adjoints, gradients(), &ahead_);
      const T* state = adjoints.rows(plan_.program.adjoint[1]);
      add_rows(state, local_, D);
      spread(state, plan_.stage(i));
      if (times_) {
        by_size(state, plan_.stage(i), size_adjoint);
        const T* time = adjoints.rows(plan_.program.adjoint[0]);
        for (int l = 0; l < L; ++l) {
          time_adjoint[l] += time[l];
          size_adjoint[l] += plan_.method.c[i] * time[l];
        }
      }
      if (plan_.program.own) add_rows(adjoints.rows(plan_.program.adjoint[2]), own_adjoint_, plan_.program.own);
    }
    products(first_, evaluated);

    for (int l = 0; l < L; ++l) {
      if (block.sample[l] < 0) continue;
      t_[l] += time_adjoint[l];
      if (block.last[l]) {  // its size is t1 - t
        h_[l] += size_adjoint[l];
        t_[l] -= size_adjoint[l];
      }
    }
    each<T>(D, [&](int row, int j) {
      const int at = row * L + j * W;
      const auto accepted = Vec<T>::load(mask + j * W) != Vec<T>(T(0));
      select(accepted, Vec<T>::load(local_ + at), Vec<T>::load(y_ + at)).store(y_ + at);
      if (first_) select(accepted, Vec<T>::load(slopes_[0] + at), Vec<T>::load(carried_ + at)).store(carried_ + at);
    });
  }

  // The stages of a step, from where they are kept or computed again.
  void restore(const Block<T>& block, int evaluated) {
    if (block.full) return stages_.lie_in(plan_, block, first_);
    stages_.lie_in(plan_, again_, first_);
    copy_rows(block.rows, again_.rows, 2 * D);
    for (int i = first_; i < evaluated; ++i) {
      if (plan_.timed)
        for (int l = 0; l < L; ++l) stages_.time[i][l] = static_cast<T>(block.t[l] + plan_.method.c[i] * block.h[l]);
      if (i > 0)
        combine(stages_.state[0], stages_.slope.data(), plan_.stage(i), size_, stages_.state[i], D);
      evaluate(plan_.record, frame(i));
    }
    for (int l = 0; l < L; ++l) evaluations_ += block.sample[l] >= 0 ? evaluated - first_ : 0;
  }

  // What comes after stage i on the way back: it was written long ago, and in the other order.
  void look_ahead(int i, const Block<T>& block, const Block<T>* next) {
    const std::size_t rows = Stages<T>::rows_of_one(plan_) * L;
    if (i > first_) {
      if (block.full) ahead_.turn_to(stages_.time[i - 1], rows * sizeof(T));
    } else if (next && next->full) {
      const std::size_t before = static_cast<std::size_t>((next->extended ? all_ : S) - 1 - first_);
      ahead_.turn_to(next->rows + 2 * static_cast<std::size_t>(D) * L + before * rows, rows * sizeof(T));
    }
  }

  static void add_rows(const T* from, T* to, int rows) {
    for (int i = 0; i < rows * L; i += W) (Vec<T>::load(to + i) + Vec<T>::load(from + i)).store(to + i);
  }

  // Adds h w_n of a state's adjoint to that of each slope.
  void spread(const T* adjoint, const Terms<T>& terms) {
    Vec<T> size[row_registers];
    for (int j = 0; j < row_registers; ++j) size[j] = Vec<T>::load(size_ + j * W);
    for (int n = 0; n < terms.count; ++n) {
      const Vec<T> w(terms.weights[n]);
      T* to = slopes_[terms.numbers[n]];
      each<T>(D, [&](int row, int j) {
        const int at = row * L + j * W;
        fma(Vec<T>::load(adjoint + at), w * size[j], Vec<T>::load(to + at)).store(to + at);
      });
    }
  }

  // The part of a state's adjoint that goes to the size of the step.
  void by_size(const T* adjoint, const Terms<T>& terms, double* to) const {
    for (int n = 0; n < terms.count; ++n) {
      const T* slope = stages_.slope[terms.numbers[n]];
      for (int d = 0; d < D; ++d)
        for (int l = 0; l < L; ++l)
          to[l] += static_cast<double>(terms.weights[n] * slope[d * L + l]) * adjoint[d * L + l];
    }
  }

  // The cotangents of outputs inside the step.
  void outputs(const Block<T>& block, double* time_adjoint, double* size_adjoint) {
    const Task<T>& task = plan_.task;
    for (int l = 0; l < L; ++l) {
      const std::int64_t s = block.sample[l];
      if (s < 0) continue;
      const double h = block.h[l];
      for (int o = block.first_output[l]; o < block.end_output[l]; ++o) {
        const double theta = (task.t_eval[o * task.output_step + s * task.sample_step] - block.t[l]) / h;
        const T* c = cotangent(o, s);
        for (int d = 0; d < D; ++d) local_[d * L + l] += c[d];
        double turn = 0, grow = 0;  // what the time of the output gets, and the size of the step at one θ
        for (int i = 0; i < all_; ++i) {
          const auto& row = plan_.method.interpolant[i];
          double w = 0, slope = 0;
          for (int n = static_cast<int>(row.size()); n-- > 0;) {
            w = (w + row[n]) * theta;
            slope = slope * theta + (n + 1) * row[n];
          }
          if (w == 0 && slope == 0) continue;
          const T scaled = static_cast<T>(w * h);
          for (int d = 0; d < D; ++d) slopes_[i][d * L + l] += scaled * c[d];
          if (!times_) continue;
          double dot = 0;
          for (int d = 0; d < D; ++d) dot += static_cast<double>(c[d]) * stages_.slope[i][d * L + l];
          turn += slope * dot;
          grow += w * dot;
        }
        if (!times_) continue;
        if (back_.t_eval) back_.t_eval[o * task.batch + s] += turn;
        time_adjoint[l] -= turn;
        size_adjoint[l] += grow - theta * turn;
      }
    }
  }

  // The gradient of each weight from the stages [from, to) of a step at once.
  void products(int from, int to) {
    const Program& program = plan_.program;
    for (std::size_t n = 0; n < program.code.size(); ++n) {
      if (!weights_[n]) continue;
      const Instruction& code = program.code[n];
      const Operand& x = code.operands[0];
      const int repeats = code.index[0], rows = code.index[1], columns = code.index[2];
      int pairs = 0;
      for (int i = from; i < to; ++i) {
        const T* left = kept_ + (static_cast<std::ptrdiff_t>(i) * program.kept_rows + program.adjoint[program.inputs + n].row) * L;
        const T* right = frame(i).rows(program.record.home[x.number], x.row);
        for (int p = 0; p < repeats; ++p) {
          left_[pairs] = left + static_cast<std::ptrdiff_t>(p) * rows * L;
          right_[pairs++] = right + static_cast<std::ptrdiff_t>(p) * columns * L;
        }
      }
      switch (form_of<T>(rows, columns)) {
        case Form::lanes: outer_lanes(left_.data(), right_.data(), pairs, rows, columns, weights_[n]); break;
        case Form::straight:
          outer(left_.data(), right_.data(), pairs, rows, columns, weights_[n], panel_.data());
          break;
        case Form::turned:
          outer(right_.data(), left_.data(), pairs, columns, rows, weights_[n], panel_.data());
          break;
      }
    }
  }

  // Through the slopes that the samples began with: as a stage 0 of its own, for as many samples as there are lanes.
  void begin(std::int64_t first, std::int64_t end, const std::int64_t* accepted) {
    const Program& program = plan_.program;
    stages_.time[0] = time_, stages_.state[0] = new_y_, stages_.slope[0] = local_, stages_.saved[0] = start_saved_;
    for (std::int64_t at = first; at < end; at += L) {
      std::int64_t mine[L], donor = -1;
      for (int l = 0; l < L; ++l) {
        mine[l] = at + l < end && accepted[at + l] > 0 ? at + l : -1;
        if (mine[l] >= 0) donor = mine[l];
      }
      if (donor < 0) continue;
      T* const seed = slopes_[0];
      for (int l = 0; l < L; ++l) {
        const std::int64_t s = mine[l] >= 0 ? mine[l] : donor;
        put_column(plan_.task.y0 + s * D, new_y_, l, D);
        load_own(l, s);
        time_[l] = static_cast<T>(plan_.task.t0[s]);
        for (int d = 0; d < D; ++d)
          seed[d * L + l] = mine[l] >= 0 ? starts_[static_cast<std::size_t>(s - first) * D + d] : T(0);
      }
      evaluate(plan_.record, frame(0));
      for (int l = 0; l < L; ++l) evaluations_ += mine[l] >= 0;
      const Adjoints<T> adjoints{adjoint_, kept_};
      pull_back(plan_.record, frame(0), seed, adjoints, gradients());
      products(0, 1);
      for (int l = 0; l < L; ++l) {
        const std::int64_t s = mine[l];
        if (s < 0) continue;
        if (back_.y0)
          for (int d = 0; d < D; ++d) back_.y0[s * D + d] += adjoints.rows(program.adjoint[1])[d * L + l];
        if (program.own) give_own(l, s, adjoints.rows(program.adjoint[2]));
        if (back_.t0) back_.t0[s] += adjoints.rows(program.adjoint[0])[l];
      }
    }
  }

  // The outputs that are y0 itself.
  void ends(std::int64_t first, std::int64_t end, const std::int64_t* accepted) {
    const Task<T>& task = plan_.task;
    for (std::int64_t s = first; s < end; ++s) {
      const auto add = [&](std::int64_t output) {
        for (int d = 0; d < D; ++d) back_.y0[s * D + d] += cotangent(output, s)[d];
      };
      if (!task.t_eval) {
        add(0);
        if (accepted[s] == 0 && status_[s] == static_cast<std::int64_t>(Status::success)) add(1);
      } else {
        for (std::int64_t o = 0; o < task.outputs; ++o)
          if (task.t_eval[o * task.output_step + s * task.sample_step] == task.t0[s]) add(o);
      }
    }
  }
};

// A solve with all that its way back needs.
template <class T>
class Recorded final : public Tape<T> {
public:
  Recorded(std::shared_ptr<const Program> program, const ExplicitMethod& method, const Control& control, const Task<T>& task)
      : program_(std::move(program)), method_(method), control_(control), task_(task),
        plan_(*program_, method_, control_, task_), parts_(control.joint ? tiles() : task.threads),
        stores_(new Store[task.threads]), blocks_(new Blocks<T>[parts_]) {
    for (int i = 0; i < task.threads; ++i)
      for (std::int64_t n = share(parts_, i, task.threads); n < share(parts_, i + 1, task.threads); ++n)
        blocks_[n].lie_in(stores_[i]);
    carry<Explicit<T>>(plan_, blocks_.get());
    task_.interruption = nullptr;  // it is over with the call
    status_.resize(task.batch);
    accepted_.resize(task.batch);
    std::memcpy(status_.data(), task.status, sizeof(std::int64_t) * task.batch);
    std::memcpy(accepted_.data(), task.n_accepted, sizeof(std::int64_t) * task.batch);
  }

  void pull_back(Back<T>& back) override {
    const int threads = task_.threads;
    clear(back);
    const std::unique_ptr<std::unique_ptr<Return<T>>[]> ways(new std::unique_ptr<Return<T>>[threads]);
    parallel(threads, back.interruption, [&](int i) {
      ways[i].reset(new Return<T>(plan_, back));
      for (std::int64_t n = share(parts_, i, threads); n < share(parts_, i + 1, threads); ++n) {
        const std::int64_t first = control_.joint ? n * lanes<T> : share(task_.batch, static_cast<int>(n), parts_);
        const std::int64_t end = control_.joint ? (first + lanes<T> < task_.batch ? first + lanes<T> : task_.batch)
                                                : share(task_.batch, static_cast<int>(n) + 1, parts_);
        ways[i]->run(blocks_[n], first, end, status_.data(), accepted_.data(), i == 0);
      }
    });
    std::int64_t evaluations = 0;
    for (int i = 0; i < threads; ++i) {
      ways[i]->deliver();
      evaluations += ways[i]->evaluations();
    }
    if (task_.batch) back.nfev = (evaluations + task_.batch - 1) / task_.batch;
  }

  std::int64_t bytes() const override {
    std::int64_t total = 0;
    for (int i = 0; i < task_.threads; ++i) total += stores_[i].bytes();
    return total;
  }

private:
  // Sets all gradients to zero: what samples and steps have part in is then added.
  void clear(const Back<T>& back) const {
    const auto zero = [](auto* at, std::int64_t count) {
      if (at) std::fill_n(at, count, 0);
    };
    const std::int64_t batch = task_.batch;
    zero(back.y0, batch * program_->dimension);
    zero(back.t0, batch), zero(back.t1, batch), zero(back.t_eval, batch * task_.outputs);
    for (std::size_t v = 0; v < back.own.size(); ++v) zero(back.own[v], batch * program_->sizes[v + 2]);
    for (std::size_t n = 0; n < back.shared.size(); ++n) zero(back.shared[n], program_->shared[n]);
  }

  int tiles() const { return static_cast<int>((task_.batch + lanes<T> - 1) / lanes<T>); }

  std::shared_ptr<const Program> program_;
  ExplicitMethod method_;
  Control control_;
  Task<T> task_;
  ExplicitPlan<T> plan_;
  int parts_;
  std::unique_ptr<Store[]> stores_;  // of each thread
  std::unique_ptr<Blocks<T>[]> blocks_;
  Array<std::int64_t> status_, accepted_;
};

// Solves; what it leaves for the way back is null where nothing is recorded.
template <class T>
Tape<T>* solve_explicit(std::shared_ptr<const Program> program, const ExplicitMethod& method, const Control& control, Task<T> task) {
  task.threads = busy_threads(task);
  if (task.record) return new Recorded<T>(std::move(program), method, control, task);
  const ExplicitPlan<T> plan(*program, method, control, task);
  carry<Explicit<T>>(plan, static_cast<Blocks<T>*>(nullptr));
  return nullptr;
}

}  // namespace thalweg::THALWEG_ISA
