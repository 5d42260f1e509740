// The instructions of a program on one tile: forward, and the derivative back.
//
// Rows are `lanes` numbers, one of each sample. Where a value lives is told by its `Home`; a `Frame` says where each
// place begins for the evaluation at hand. To add an operation: a row in operations.def and program.py, its case in
// `evaluate` and in `pull_back`, and what it saves in program.cpp.

#pragma once

#include <algorithm>
#include <type_traits>

#include "gemm.hpp"
#include "math.hpp"
#include "program.hpp"
#include "rows.hpp"

namespace thalweg::THALWEG_ISA {

template <class T>
struct Frame {
  T* at[static_cast<int>(Place::count) + 1] = {};  // and nowhere

  T* rows(Home home, int row = 0) const {
    return at[static_cast<int>(home.place)] + static_cast<std::ptrdiff_t>(home.row + row) * lanes<T>;
  }
};

// An operand as the elementwise kernels read it: the same number for all lanes, or a row.
template <class T>
struct Reader {
  const T* p;
  std::ptrdiff_t step;
  bool shared;

  THALWEG_INLINE Vec<T> operator()(int row, int j) const {
    return shared ? Vec<T>(p[row * step]) : Vec<T>::load(p + row * step + j * static_cast<int>(Vec<T>::lanes));
  }
};

// Where an operand is found, for any frame.
template <class T>
struct Source {
  const T* numbers = nullptr;  // of a shared operand
  Place place{};
  std::ptrdiff_t offset = 0, step = 0;

  THALWEG_INLINE Reader<T> in(const Frame<T>& frame) const {
    if (numbers) return {numbers, step, true};
    return {frame.at[static_cast<int>(place)] + offset, step, false};
  }
};

// Rows that a gather takes from one place, one after the other.
template <class T>
struct Run {
  Source<T> from;
  int to, count;
};

template <class T>
THALWEG_INLINE Vec<T> one_where(Mask<T> m) {
  return select(m, T(1), Vec<T>(T(0)));
}

// An instruction with all that can be known before a frame is.
template <class T>
struct Resolved {
  Op op;
  int size;
  Place place;            // of the result
  std::ptrdiff_t offset;
  Source<T> x[3];
  T s[3];
  int repeats, rows, columns;  // of `linear`; of a reduction, `columns` is its length
  const T *panels, *transposed, *bias;
  int first_run, runs;         // of a gather
  const Instruction* code;
  int chain;                   // how many short steps there are from here, see `carry_on`; 0 where this is none
};

// A short step as `carry_on` reads it: a row of results by one or two rows, each found by where its place begins and bytes
// from there. A shared number is a row too.
struct Link {
  std::uintptr_t x[2], to;
  Op op;
  std::uint8_t x_place[2], to_place;
  bool follows[2];  // whether an operand is the result of the link before
  bool passed_on;   // whether none but the link after reads the result
};
inline constexpr std::uint8_t nowhere = static_cast<std::uint8_t>(Place::count);  // from where bytes are an address

// Hands the function of a short operation to `f`: a few machine instructions on one or two registers. Says whether it is one.
template <class T, class F>
THALWEG_INLINE bool short_operation(Op op, F f) {
  using V = Vec<T>;
  switch (op) {
    case Op::add: f([](V x, V y) { return x + y; }); break;
    case Op::sub: f([](V x, V y) { return x - y; }); break;
    case Op::mul: f([](V x, V y) { return x * y; }); break;
    case Op::div: f([](V x, V y) { return x / y; }); break;
    case Op::minimum: f([](V x, V y) { return min(x, y); }); break;
    case Op::maximum: f([](V x, V y) { return max(x, y); }); break;
    case Op::gt: f([](V x, V y) { return one_where(x > y); }); break;
    case Op::ge: f([](V x, V y) { return one_where(x >= y); }); break;
    case Op::lt: f([](V x, V y) { return one_where(x < y); }); break;
    case Op::le: f([](V x, V y) { return one_where(x <= y); }); break;
    case Op::eq: f([](V x, V y) { return one_where(x == y); }); break;
    case Op::ne: f([](V x, V y) { return one_where(x != y); }); break;
    case Op::neg: f([](V x) { return -x; }); break;
    case Op::abs: f([](V x) { return abs(x); }); break;
    case Op::square: f([](V x) { return x * x; }); break;
    case Op::reciprocal: f([](V x) { return T(1) / x; }); break;
    case Op::sqrt: f([](V x) { return sqrt(x); }); break;
    case Op::rsqrt: f([](V x) { return T(1) / sqrt(x); }); break;
    case Op::relu: f([](V x) { return max(x, V(T(0))); }); break;
    case Op::sign: f([](V x) { return one_where(x > V(T(0))) - one_where(x < V(T(0))); }); break;
    case Op::gather: f([](V x) { return x; }); break;  // of one row
    default: return false;
  }
  return true;
}

// A program in one of its layouts, ready to be evaluated in any frame.
template <class T>
class Code {
public:
  const Program& program;

  // `panels`, `transposed`: of each instruction that is `linear`.
  Code(const Program& program, const Layout& layout, const T* const* shared, const T* const* panels,
       const T* const* transposed)
      : program(program), steps_(program.code.size()), links_(program.code.size()) {
    int runs = 0;
    for (const Instruction& code : program.code)
      if (code.op == Op::gather) runs += code.size;
    runs_.resize(static_cast<std::size_t>(runs));
    runs = 0;
    const auto source = [&](const Operand& x, int row = 0) -> Source<T> {
      Source<T> found;
      if (x.shared) {
        found.numbers = shared[x.number] + x.row + row;
        found.step = x.stride;
      } else {
        const Home home = layout.home[x.number];
        found.place = home.place;
        found.offset = static_cast<std::ptrdiff_t>(home.row + x.row + row) * lanes<T>;
        found.step = static_cast<std::ptrdiff_t>(x.stride) * lanes<T>;
      }
      return found;
    };
    for (std::size_t i = 0; i < program.code.size(); ++i) {
      const Instruction& code = program.code[i];
      const Home home = layout.home[program.inputs + i];
      Resolved<T> step{};
      step.op = code.op;
      step.size = code.size;
      step.place = home.place;
      step.offset = static_cast<std::ptrdiff_t>(home.row) * lanes<T>;
      step.code = &code;
      step.first_run = runs;
      if (code.op == Op::gather) {
        for (int row = 0; row < code.size; ++row) {
          const int operand = code.index[2 * row], from = code.index[2 * row + 1];
          const bool follows = row > 0 && code.index[2 * row - 2] == operand && code.index[2 * row - 1] + 1 == from;
          if (follows) {
            ++runs_[runs - 1].count;
            continue;
          }
          Run<T> run{source(code.operands[operand], from), row, 1};
          run.from.step = run.from.numbers ? 1 : lanes<T>;
          runs_[runs++] = run;
        }
        // results that were written there at once need no copy
        Run<T>* const first = runs_.data() + step.first_run;
        const auto there = [&](const Run<T>& run) {
          return !run.from.numbers && run.from.place == step.place && run.from.offset == step.offset + run.to * lanes<T>;
        };
        runs = static_cast<int>(std::remove_if(first, runs_.data() + runs, there) - runs_.data());
      } else {
        for (std::size_t n = 0; n < code.operands.size(); ++n) step.x[n] = source(code.operands[n]);
      }
      step.runs = runs - step.first_run;
      if (copies_row(step)) {
        const Run<T>& run = runs_[step.first_run];
        step.x[0] = run.from;
        step.offset += static_cast<std::ptrdiff_t>(run.to) * lanes<T>;
      }
      for (std::size_t n = 0; n < code.scalars.size(); ++n) step.s[n] = static_cast<T>(code.scalars[n]);
      if (code.op == Op::linear) {
        step.repeats = code.index[0], step.rows = code.index[1], step.columns = code.index[2];
        step.panels = panels[i];
        step.transposed = transposed[i];
        step.bias = code.operands.size() > 2 ? step.x[2].numbers : nullptr;
      } else if (code.op == Op::sum || code.op == Op::amax) {
        step.columns = code.index[0];
      }
      steps_[i] = step;
    }
    find_chains();
    is_chain_ = program.direct_output && count() > 0 && steps_[0].chain == count();
    if (!program.direct_output) output_ = source(program.output);
  }

  int count() const { return static_cast<int>(steps_.size()); }
  const Resolved<T>& operator[](int i) const { return steps_[i]; }
  const Run<T>* runs(const Resolved<T>& step) const { return runs_.data() + step.first_run; }
  // The short steps from that one.
  const Link* links(int i) const { return links_.data() + i; }
  // Whether short steps are all there is.
  bool is_chain() const { return is_chain_; }
  // dy/dt, where no instruction writes it to its place.
  const Source<T>& output() const { return output_; }

private:
  Array<Resolved<T>> steps_;
  Array<Run<T>> runs_;
  Array<Link> links_;  // of each instruction that is short
  Array<T> numbers_;   // rows of the shared numbers that these read
  Source<T> output_;
  bool is_chain_ = false;

  // Whether all that is left to do of a gather is to copy one row.
  bool copies_row(const Resolved<T>& step) const {
    return step.op == Op::gather && step.runs == 1 && runs_[step.first_run].count == 1;
  }

  void find_chains() {
    const auto is_short = [&](const Resolved<T>& step) {
      if (step.op == Op::gather) return copies_row(step);
      return step.size == 1 && short_operation<T>(step.op, [](auto) {});
    };
    int numbers = 0;
    for (int i = count(); i-- > 0;) {
      Resolved<T>& step = steps_[i];
      if (!is_short(step)) continue;
      step.chain = i + 1 < count() ? 1 + steps_[i + 1].chain : 1;
      for (const Source<T>& x : step.x) numbers += x.numbers != nullptr;
    }
    numbers_.resize(static_cast<std::size_t>(numbers) * lanes<T>);
    T* number = numbers_.data();
    for (int i = 0; i < count(); ++i) {
      const Resolved<T>& step = steps_[i];
      if (!step.chain) continue;
      Link& link = links_[i] = {};
      link.op = step.op;
      link.to_place = static_cast<std::uint8_t>(step.place), link.to = sizeof(T) * step.offset;
      link.passed_on = step.chain > 1 && step.size == 1 && step.place == Place::scratch &&
                       program.last_reader[program.inputs + i] == i + 1;
      const bool after_one = i > 0 && steps_[i - 1].chain && steps_[i - 1].size == 1;
      for (int n = 0; n < 2; ++n) {
        const Source<T>& x = step.x[n];
        if (x.numbers) {
          std::fill_n(number, lanes<T>, *x.numbers);
          link.x_place[n] = nowhere, link.x[n] = reinterpret_cast<std::uintptr_t>(number);
          number += lanes<T>;
        } else {
          link.x_place[n] = static_cast<std::uint8_t>(x.place), link.x[n] = sizeof(T) * x.offset;
          link.follows[n] = after_one && reads(step, n, program.inputs + i - 1);
        }
      }
    }
  }

  // Whether an operand of a short step is that value.
  bool reads(const Resolved<T>& step, int n, int value) const {
    const std::vector<Operand>& operands = step.code->operands;
    if (step.op == Op::gather) return n == 0 && operands[step.code->index[2 * runs_[step.first_run].to]].is(value);
    return n < static_cast<int>(operands.size()) && operands[n].is(value);
  }
};

// Where gradients of shared tensors are summed up, for one thread; null where none is wanted.
template <class T>
struct SharedGradients {
  T* const* rows;     // of each shared tensor: a row of partial sums for each number
  T* const* weights;  // of each instruction that is `linear`, see `Form`
};

// Where the gradient of an operand goes: rows that are added to, or written.
template <class T>
struct Sink {
  T* p;
  std::ptrdiff_t step;
  bool founds = false;  // whether nothing is there yet

  explicit operator bool() const { return p != nullptr; }
  THALWEG_INLINE T* at(int row, int j) const { return p + row * step + j * static_cast<int>(Vec<T>::lanes); }
  THALWEG_INLINE void add(int row, int j, Vec<T> g) const {
    T* to = at(row, j);
    (Vec<T>::load(to) + g).store(to);
  }
};

template <class T, class F>
THALWEG_INLINE void each(int rows, F f) {
  for (int row = 0; row < rows; ++row)
#pragma GCC unroll 4
    for (int j = 0; j < row_registers; ++j) f(row, j);
}

template <class T, class F>
THALWEG_INLINE void map(T* out, int rows, Reader<T> x, F f) {
  each<T>(rows, [&](int row, int j) { f(x(row, j)).store(out + row * lanes<T> + j * static_cast<int>(Vec<T>::lanes)); });
}

// The same by four registers at a time, which is faster for a function of many steps. Not inlined: where many loops are
// one function, compilers deal out registers carelessly.
template <class T, class F>
[[gnu::noinline]] void map_fours(T* out, int rows, const T* x, std::ptrdiff_t step, F f) {
  constexpr int W = Vec<T>::lanes, R = row_registers;
  const int count = rows * R;
  const auto load = [&](int i) { return Vec<T>::load(x + i / R * step + i % R * W); };
  int i = 0;
  for (; i + 3 < count; i += 4) {
    const auto y = f(Pair(Pair(load(i), load(i + 1)), Pair(load(i + 2), load(i + 3))));
    T* const to = out + i * W;
    y.first.first.store(to), y.first.second.store(to + W);
    y.second.first.store(to + 2 * W), y.second.second.store(to + 3 * W);
  }
  for (; i < count; ++i) f(load(i)).store(out + i * W);
}
template <class T, class F>
THALWEG_INLINE void map_fours(T* out, int rows, Reader<T> x, F f) {
  if (x.shared) return map(out, rows, x, f);
  map_fours(out, rows, x.p, x.step, f);
}

// Which operand is shared is asked once, not for each row.
template <class T, class F>
THALWEG_INLINE void map(T* out, int rows, Reader<T> x, Reader<T> y, F f) {
  const auto go = [&](auto left, auto right) {
    each<T>(rows, [&](int row, int j) {
      f(left(row, j), right(row, j)).store(out + row * lanes<T> + j * static_cast<int>(Vec<T>::lanes));
    });
  };
  const auto number = [](Reader<T> r) { return [=](int row, int) { return Vec<T>(r.p[row * r.step]); }; };
  const auto vector = [](Reader<T> r) {
    return [=](int row, int j) { return Vec<T>::load(r.p + row * r.step + j * static_cast<int>(Vec<T>::lanes)); };
  };
  if (x.shared)
    go(number(x), vector(y));
  else if (y.shared)
    go(vector(x), number(y));
  else
    go(vector(x), vector(y));
}

// What is seldom asked for, in a loop of its own, so that the others keep their registers.
template <class T, class F>
[[gnu::noinline]] void map_apart(T* out, int rows, Reader<T> x, F f) {
  map(out, rows, x, f);
}
template <class T, class F>
[[gnu::noinline]] void map_apart(T* out, int rows, Reader<T> x, Reader<T> y, F f) {
  map(out, rows, x, y, f);
}

template <class T>
void gather(const Run<T>* runs, int count, const Frame<T>& frame, T* out) {
  constexpr int W = Vec<T>::lanes;
  for (int n = 0; n < count; ++n) {
    const Reader<T> x = runs[n].from.in(frame);
    T* const to = out + runs[n].to * lanes<T>;
    each<T>(runs[n].count, [&](int row, int j) { x(row, j).store(to + row * lanes<T> + j * W); });
  }
}

// Short steps on one row each, where each may wait for the one before: its result is handed on in registers, as to store it
// and to load it again takes longer than the steps themselves. It is stored too where somebody else reads it. All lambdas are
// inlined by order: GCC would hand registers to them through memory, and a solve of `vdp` took 40 % more time.
template <class T>
[[gnu::noinline]] void carry_on(const Link* links, int count, const Frame<T>& frame) {
  constexpr int W = Vec<T>::lanes;
  using V = Vec<T>;
  struct Row {
    V of[row_registers];
  };
  const auto row = [&](std::uint8_t place, std::uintptr_t bytes) {
    return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(frame.at[place]) + bytes);
  };
  const auto load = [&](const T* x) THALWEG_INLINE_LAMBDA {
    Row found;
#pragma GCC unroll 4
    for (int j = 0; j < row_registers; ++j) found.of[j] = V::load(x + j * W);
    return found;
  };
  Row last;
#pragma GCC unroll 4
  for (int j = 0; j < row_registers; ++j) last.of[j] = V(T(0));
  for (const Link* link = links; link < links + count; ++link) {
    // whether an operand follows is asked once for all registers
    const auto with = [&](int n, auto go) THALWEG_INLINE_LAMBDA {
      if (link->follows[n]) return go(last);
      go(load(row(link->x_place[n], link->x[n])));
    };
    short_operation<T>(link->op, [&](auto f) THALWEG_INLINE_LAMBDA {
      with(0, [&](Row x) THALWEG_INLINE_LAMBDA {
        if constexpr (std::is_invocable_v<decltype(f), V, V>) {
          with(1, [&](Row y) THALWEG_INLINE_LAMBDA {
#pragma GCC unroll 4
            for (int j = 0; j < row_registers; ++j) last.of[j] = f(x.of[j], y.of[j]);
          });
        } else {
#pragma GCC unroll 4
          for (int j = 0; j < row_registers; ++j) last.of[j] = f(x.of[j]);
        }
      });
    });
    if (link->passed_on) continue;
    T* const to = row(link->to_place, link->to);
#pragma GCC unroll 4
    for (int j = 0; j < row_registers; ++j) last.of[j].store(to + j * W);
  }
}

// dy/dt of a tile, into the frame's `slope`, by a program of any kind.
template <class T>
[[gnu::noinline]] void evaluate_steps(const Code<T>& code, const Frame<T>& frame) {
  constexpr int L = lanes<T>, W = Vec<T>::lanes;
  using V = Vec<T>;
  for (int i = 0; i < code.count(); ++i) {
    const Resolved<T>& step = code[i];
    if (step.chain) {
      carry_on(code.links(i), step.chain, frame);
      i += step.chain - 1;
      continue;
    }
    T* const out = frame.at[static_cast<int>(step.place)] + step.offset;
    const auto at = [&](int n) { return step.x[n].in(frame); };
    const T* const s = step.s;
    const auto unary = [&](auto f) { map(out, step.size, at(0), f); };
    const auto binary = [&](auto f) { map(out, step.size, at(0), at(1), f); };
    switch (step.op) {
      case Op::linear:
        for (int n = 0; n < step.repeats; ++n)
          multiply<T, false>(step.panels, step.bias, at(0).p + static_cast<std::ptrdiff_t>(n) * step.columns * L, step.rows,
                             step.columns, out + static_cast<std::ptrdiff_t>(n) * step.rows * L);
        break;
      case Op::gather: gather(code.runs(step), step.runs, frame, out); break;
      case Op::sum:
      case Op::amax: {
        const Reader<T> x = at(0);
        const int length = step.columns;
        each<T>(step.size, [&](int row, int j) {
          V total = x(row * length, j);
          for (int n = 1; n < length; ++n) {
            const V next = x(row * length + n, j);
            total = step.op == Op::sum ? total + next : max(total, next);
          }
          total.store(out + row * L + j * W);
        });
        break;
      }
      case Op::where: {
        const Reader<T> m = at(0), x = at(1), y = at(2);
        each<T>(step.size, [&](int row, int j) {
          select(m(row, j) != V(T(0)), x(row, j), y(row, j)).store(out + row * L + j * W);
        });
        break;
      }
      case Op::add: case Op::sub: case Op::mul: case Op::div: case Op::minimum: case Op::maximum:
      case Op::gt: case Op::ge: case Op::lt: case Op::le: case Op::eq: case Op::ne:
      case Op::neg: case Op::abs: case Op::square: case Op::reciprocal: case Op::sqrt: case Op::rsqrt:
      case Op::relu: case Op::sign:
        short_operation<T>(step.op, [&](auto f) {
          if constexpr (std::is_invocable_v<decltype(f), V, V>)
            binary(f);
          else
            unary(f);
        });
        break;
      case Op::pow: binary([](V x, V y) { return pow(x, y); }); break;
      case Op::floor: map_apart(out, step.size, at(0), [](V x) { return floor(x); }); break;
      case Op::round: map_apart(out, step.size, at(0), [](V x) { return round(x); }); break;
      case Op::copysign: map_apart(out, step.size, at(0), at(1), [](V x, V y) { return copysign(x, y); }); break;
      case Op::fmod: map_apart(out, step.size, at(0), at(1), [](V x, V y) { return fmod(x, y); }); break;
      case Op::remainder: map_apart(out, step.size, at(0), at(1), [](V x, V y) { return remainder(x, y); }); break;
      case Op::atan2: map_apart(out, step.size, at(0), at(1), [](V y, V x) { return atan2(y, x); }); break;
      case Op::exp: unary([](V x) { return exp(x); }); break;
      case Op::expm1: unary([](V x) { return expm1(x); }); break;
      case Op::exp2: map_apart(out, step.size, at(0), [](V x) { return exp2(x); }); break;
      case Op::log: unary([](V x) { return log(x); }); break;
      case Op::log1p: unary([](V x) { return log1p(x); }); break;
      case Op::log2: map_apart(out, step.size, at(0), [](V x) { return log2(x); }); break;
      case Op::sin: unary([](V x) { return sin(x); }); break;
      case Op::cos: unary([](V x) { return cos(x); }); break;
      case Op::tanh: map_fours(out, step.size, at(0), [](auto x) { return tanh(x); }); break;
      case Op::sigmoid: unary([](V x) { return sigmoid(x); }); break;
      case Op::leaky_relu: unary([a = s[0]](V x) { return select(x > V(T(0)), x, x * a); }); break;
      case Op::elu:
        unary([a = s[0], b = s[1], c = s[2]](V x) {
          return select(x > V(T(0)), x * b, expm1(x * c) * V(a * b));
        });
        break;
      case Op::gelu: unary([](V x) { return gelu(x); }); break;
      case Op::gelu_tanh: unary([](V x) { return gelu_tanh(x); }); break;
      case Op::silu: unary([](V x) { return silu(x); }); break;
      case Op::softplus:
        unary([b = s[0], most = s[1]](V x) {
          const V scaled = x * b;
          return select(scaled > V(most), x, log1p(exp(scaled)) / V(b));
        });
        break;
      case Op::clamp: unary([a = s[0], b = s[1]](V x) { return clamp(x, a, b); }); break;
      case Op::power: {
        const T e = s[0];
        if (e == T(3))
          unary([](V x) { return x * x * x; });
        else
          unary([e](V x) { return pow(x, V(e)); });
        break;
      }
      case Op::erf: unary([](V x) { return erf(x); }); break;
      case Op::erfc: map_apart(out, step.size, at(0), [](V x) { return erfc(x); }); break;
      case Op::erfinv: map_apart(out, step.size, at(0), [](V x) { return erfinv(x); }); break;
      case Op::lgamma: map_apart(out, step.size, at(0), [](V x) { return lgamma(x); }); break;
      case Op::digamma: map_apart(out, step.size, at(0), [](V x) { return digamma(x); }); break;
      case Op::count: break;
    }
  }
  if (!code.program.direct_output) {
    T* const to = frame.at[static_cast<int>(Place::slope)];
    map(to, code.program.dimension, code.output().in(frame), [](V x) { return x; });
  }
}

// dy/dt of a tile, into the frame's `slope`.
template <class T>
THALWEG_INLINE void evaluate(const Code<T>& code, const Frame<T>& frame) {
  if (code.is_chain())
    carry_on(code.links(0), code.count(), frame);
  else
    evaluate_steps(code, frame);
}

// What the way back of one evaluation adds to: adjoints of values, whatever they hold before.
template <class T>
struct Adjoints {
  T* scratch;  // program.adjoint_rows rows
  T* kept;     // program.kept_rows rows: adjoints of the results of `linear`, for `outer`

  T* rows(Home home, int row = 0) const {
    return (home.place == Place::saved ? kept : scratch) + static_cast<std::ptrdiff_t>(home.row + row) * lanes<T>;
  }
};

// Gives an operand its part of the result's adjoint, f of a row beside each. In a loop of its own, see `map_fours`.
template <class T, class F>
[[gnu::noinline]] void give_by(const Sink<T>& sink, int rows, const T* adjoint, const T* beside, F f) {
  constexpr int L = lanes<T>, W = Vec<T>::lanes;
  if (!sink) return;
  const auto part = [&](int row, int j) {
    const int at = row * L + j * W;
    return Vec<T>::load(adjoint + at) * f(Vec<T>::load(beside + at));
  };
  if (sink.founds)
    each<T>(rows, [&](int row, int j) { part(row, j).store(sink.at(row, j)); });
  else
    each<T>(rows, [&](int row, int j) { sink.add(row, j, part(row, j)); });
}

// From the adjoint of dy/dt (seed: D rows) to those of the inputs, which lie in `adjoints` afterwards, and to the gradients
// of shared tensors; those of weights are left to `outer`. The frame is that of the forward evaluation, laid out to record.
// Fetches what is ahead meanwhile.
template <class T>
void pull_back(const Code<T>& code, const Frame<T>& frame, const T* seed, const Adjoints<T>& adjoints,
               const SharedGradients<T>& gradients, Ahead* ahead = nullptr) {
  constexpr int L = lanes<T>, W = Vec<T>::lanes;
  using V = Vec<T>;
  const Program& program = code.program;
  const V zero(T(0)), one(T(1)), half(T(0.5));
  for (int v : program.summed) zero_rows(adjoints.rows(program.adjoint[v]), program.sizes[v]);
  {
    T* to = adjoints.rows(program.adjoint[program.output.number], program.output.row);
    for (int i = 0; i < program.dimension * L; i += W) V::load(seed + i).store(to + i);
  }
  for (int i = code.count(); i-- > 0;) {
    const Resolved<T>& step = code[i];
    const int made = program.inputs + i;
    const T* g = adjoints.rows(program.adjoint[made]);
    const Reader<T> down{g, L, false}, out{frame.at[static_cast<int>(step.place)] + step.offset, L, false};
    const auto at = [&](int n) { return step.x[n].in(frame); };
    const T* const s = step.s;
    const auto to = [&](int n) -> Sink<T> {
      const Operand& x = step.code->operands[n];
      if (!x.shared)
        return {adjoints.rows(program.adjoint[x.number], x.row), static_cast<std::ptrdiff_t>(x.stride) * L,
                step.code->founds[n] != 0};
      T* rows = gradients.rows[x.number];
      return {rows ? rows + static_cast<std::ptrdiff_t>(x.row) * L : nullptr, static_cast<std::ptrdiff_t>(x.stride) * L};
    };
    // f: how much of the result's adjoint an operand's gets, from the result or from the operand
    const auto give = [&](const Sink<T>& sink, auto f) {
      if (!sink) return;
      if (sink.founds)
        each<T>(step.size, [&](int row, int j) { f(row, j).store(sink.at(row, j)); });
      else
        each<T>(step.size, [&](int row, int j) { sink.add(row, j, f(row, j)); });
    };
    const auto by_output = [&](auto f) { give_by(to(0), step.size, g, out.p, f); };
    const auto by_input = [&](auto f) {
      const Reader<T> x = at(0);
      give(to(0), [&](int row, int j) { return down(row, j) * f(x(row, j)); });
    };
    const auto plain = [&](int n, auto f) {
      give(to(n), [&](int row, int j) { return f(down(row, j)); });
    };
    const auto by_both = [&](int n, auto f) {
      const Reader<T> x = at(0), y = at(1);
      give(to(n), [&](int row, int j) { return f(down(row, j), x(row, j), y(row, j)); });
    };
    switch (step.op) {
      case Op::linear: {
        const int repeats = step.repeats, rows = step.rows, columns = step.columns;
        const Sink<T> sink = to(0);
        for (int n = 0; n < repeats; ++n) {
          const T* const from = g + static_cast<std::ptrdiff_t>(n) * rows * L;
          T* const into = sink.p + static_cast<std::ptrdiff_t>(n) * columns * L;
          if (sink.founds)
            multiply<T, false>(step.transposed, nullptr, from, columns, rows, into, ahead);
          else
            multiply<T, true>(step.transposed, nullptr, from, columns, rows, into, ahead);
        }
        if (step.bias) {
          const Sink<T> bias = to(2);
          if (bias)
            for (int n = 0; n < repeats; ++n)
              each<T>(rows, [&](int row, int j) { bias.add(row, j, down(n * rows + row, j)); });
        }
        break;
      }
      case Op::gather:
        for (int row = 0; row < step.size; ++row) {
          const Sink<T> sink = to(step.code->index[2 * row]);
          if (!sink) continue;
          for (int j = 0; j < row_registers; ++j) {
            T* p = sink.p + step.code->index[2 * row + 1] * L + j * W;
            (V::load(p) + down(row, j)).store(p);
          }
        }
        break;
      case Op::sum: {
        const Sink<T> sink = to(0);
        const int length = step.columns;
        if (sink)
          each<T>(step.size, [&](int row, int j) {
            for (int n = 0; n < length; ++n) sink.add(row * length + n, j, down(row, j));
          });
        break;
      }
      case Op::amax: {  // ties share
        const Sink<T> sink = to(0);
        const Reader<T> x = at(0);
        const int length = step.columns;
        if (sink)
          each<T>(step.size, [&](int row, int j) {
            V count = zero;
            for (int n = 0; n < length; ++n) count += one_where(x(row * length + n, j) == out(row, j));
            const V share = down(row, j) / count;
            for (int n = 0; n < length; ++n)
              sink.add(row * length + n, j, select(x(row * length + n, j) == out(row, j), share, zero));
          });
        break;
      }
      case Op::where: {
        const Reader<T> m = at(0);
        const Sink<T> x = to(1), y = to(2);
        each<T>(step.size, [&](int row, int j) {
          const auto first = m(row, j) != zero;
          if (x) x.add(row, j, select(first, down(row, j), zero));
          if (y) y.add(row, j, select(first, zero, down(row, j)));
        });
        break;
      }
      case Op::add:
        plain(0, [](V d) { return d; });
        plain(1, [](V d) { return d; });
        break;
      case Op::sub:
        plain(0, [](V d) { return d; });
        plain(1, [](V d) { return -d; });
        break;
      case Op::mul:
        by_both(0, [](V d, V, V y) { return d * y; });
        by_both(1, [](V d, V x, V) { return d * x; });
        break;
      case Op::div:
        by_both(0, [](V d, V, V y) { return d / y; });
        by_both(1, [](V d, V x, V y) { return -d * x / (y * y); });
        break;
      case Op::pow: {
        by_both(0, [&](V d, V x, V y) { return select(y == zero, zero, d * (y * pow(x, y - one))); });
        const Sink<T> sink = to(1);
        const Reader<T> x = at(0), y = at(1);
        if (sink)
          each<T>(step.size, [&](int row, int j) {
            const V base = x(row, j), power = out(row, j);
            sink.add(row, j, select((base == zero) & (y(row, j) >= zero), zero, down(row, j) * (power * log(base))));
          });
        break;
      }
      case Op::fmod:
        plain(0, [](V d) { return d; });
        by_both(1, [](V d, V x, V y) { return -d * trunc(x / y); });
        break;
      case Op::remainder: {
        plain(0, [](V d) { return d; });
        const Reader<T> x = at(0), y = at(1);
        give(to(1), [&](int row, int j) { return -down(row, j) * round((x(row, j) - out(row, j)) / y(row, j)); });
        break;
      }
      case Op::atan2: {
        const auto over = [&](V y, V x) {  // one over the square of the distance; 0 at it
          const V square = y * y + x * x;
          return select(square == zero, zero, one / square);
        };
        by_both(0, [&](V d, V y, V x) { return d * (x * over(y, x)); });
        by_both(1, [&](V d, V y, V x) { return -d * (y * over(y, x)); });
        break;
      }
      case Op::copysign:
        by_both(0, [&](V d, V x, V y) {
          return select(x == zero, zero, copysign(d, from_bits<T>(bits(d) ^ bits(x) ^ bits(y))));
        });
        break;
      case Op::minimum:
      case Op::maximum: {  // ties share
        const T sign = step.op == Op::minimum ? T(1) : T(-1);
        by_both(0, [=](V d, V x, V y) { return select(x == y, d * half, select(x * sign < y * sign, d, zero)); });
        by_both(1, [=](V d, V x, V y) { return select(x == y, d * half, select(x * sign > y * sign, d, zero)); });
        break;
      }
      case Op::neg: plain(0, [](V d) { return -d; }); break;
      case Op::abs: by_input([&](V x) { return one_where(x > zero) - one_where(x < zero); }); break;
      case Op::square: by_input([](V x) { return x + x; }); break;
      case Op::reciprocal: by_output([](V y) { return -(y * y); }); break;
      case Op::sqrt: by_output([](V y) { return T(0.5) / y; }); break;
      case Op::rsqrt: by_output([](V y) { return T(-0.5) * (y * y * y); }); break;
      case Op::exp: by_output([](V y) { return y; }); break;
      case Op::expm1: by_output([&](V y) { return y + one; }); break;
      case Op::exp2: by_output([](V y) { return y * T(0.69314718055994530942); }); break;
      case Op::log: by_input([](V x) { return T(1) / x; }); break;
      case Op::log1p: by_input([&](V x) { return T(1) / (x + one); }); break;
      case Op::log2: by_input([](V x) { return T(1.44269504088896340736) / x; }); break;
      case Op::sin: by_input([](V x) { return cos(x); }); break;
      case Op::cos: by_input([](V x) { return -sin(x); }); break;
      case Op::tanh: by_output([&](V y) { return fnma(y, y, one); }); break;
      case Op::sigmoid: by_output([&](V y) { return y * (one - y); }); break;
      case Op::relu: by_output([&](V y) { return one_where(y > zero); }); break;
      case Op::leaky_relu: by_input([&, a = s[0]](V x) { return select(x > zero, one, V(a)); }); break;
      case Op::elu:
        by_input([&, a = s[0], b = s[1], c = s[2]](V x) {
          return select(x > zero, V(b), exp(x * c) * V(a * b * c));
        });
        break;
      case Op::gelu:
        by_input([&](V x) {  // Φ(x) + x φ(x)
          const V cdf = half * (one + erf(x * T(0.70710678118654752440)));
          return cdf + x * exp(x * x * T(-0.5)) * T(0.39894228040143267794);
        });
        break;
      case Op::gelu_tanh:
        by_input([&](V x) {
          constexpr T root = T(0.79788456080286535588), cubic = T(0.044715);
          const V inner = tanh((x + x * x * x * cubic) * root);
          const V slope = (one + x * x * T(3 * 0.044715)) * root;
          return half * (one + inner) + half * x * (one - inner * inner) * slope;
        });
        break;
      case Op::silu:
        by_input([&](V x) {
          const V y = sigmoid(x);
          return y * (one + x * (one - y));
        });
        break;
      case Op::softplus:
        by_input([&, b = s[0], most = s[1]](V x) { return select(x * b > V(most), one, sigmoid(x * b)); });
        break;
      case Op::clamp:
        by_input([&, a = s[0], b = s[1]](V x) { return one_where((x >= V(a)) & (x <= V(b))); });
        break;
      case Op::power: {
        const T e = s[0];
        if (e == T(3))
          by_input([](V x) { return x * x * T(3); });
        else if (e == T(0))  // also one that is too small for T
          plain(0, [&](V) { return zero; });
        else
          by_input([e](V x) { return pow(x, V(e - T(1))) * e; });
        break;
      }
      case Op::erf: by_input([](V x) { return exp(-(x * x)) * T(1.12837916709551257390); }); break;
      case Op::erfc: by_input([](V x) { return exp(-(x * x)) * T(-1.12837916709551257390); }); break;
      case Op::erfinv: by_output([](V y) { return exp(y * y) * T(0.88622692545275801365); }); break;
      case Op::lgamma: by_input([](V x) { return digamma(x); }); break;
      case Op::digamma: by_input([](V x) { return trigamma(x); }); break;
      case Op::gt: case Op::ge: case Op::lt: case Op::le: case Op::eq: case Op::ne: case Op::sign: case Op::floor:
      case Op::round: case Op::count: break;
    }
  }
}

}  // namespace thalweg::THALWEG_ISA
