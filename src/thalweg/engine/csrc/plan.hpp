// What all tiles of a solve share, whatever the method.

#pragma once

#include "kernels.hpp"
#include "rows.hpp"
#include "solve.hpp"

namespace thalweg::THALWEG_ISA {

// Panels of all weights of a program, and of their transposes where its derivative will be asked for.
template <class T>
struct Weights {
  Array<T> packed;
  Array<const T*> panels, transposed;  // of each instruction

  Weights(const Program& program, const T* const* shared, bool derivative)
      : panels(program.code.size()), transposed(program.code.size()) {
    const auto entries = [](const Instruction& code) {  // rounded up, so that each begins at a cache line
      return (static_cast<std::size_t>(code.index[1]) * code.index[2] + 15) / 16 * 16;
    };
    std::size_t total = 0;
    for (const Instruction& code : program.code)
      if (code.op == Op::linear) total += entries(code) * (derivative ? 2 : 1);
    packed.resize(total);
    T* at = packed.data();
    for (std::size_t i = 0; i < program.code.size(); ++i) {
      const Instruction& code = program.code[i];
      panels[i] = transposed[i] = nullptr;
      if (code.op != Op::linear) continue;
      const int rows = code.index[1], columns = code.index[2];
      const T* weight = shared[code.operands[1].number] + code.operands[1].row;
      pack(weight, rows, columns, columns, 1, at);
      panels[i] = at;
      at += entries(code);
      if (!derivative) continue;
      pack(weight, columns, rows, 1, columns, at);
      transposed[i] = at;
      at += entries(code);
    }
  }
};

inline bool reads_time(const Program& program) {
  for (const Instruction& code : program.code)
    for (const Operand& x : code.operands)
      if (!x.shared && x.number == 0) return true;
  return program.output.number == 0;
}

// Made once, and read by all threads.
template <class T>
struct Plan {
  const Program& program;
  const Control& control;
  const Task<T>& task;
  const Weights<T> weights;
  const Code<T> plain, record;  // where nothing is kept, and where a derivative will be asked for
  const bool timed;             // whether the field depends on time

  // `derivative`: whether that of the program will be asked for.
  Plan(const Program& program, const Control& control, const Task<T>& task, bool derivative)
      : program(program), control(control), task(task), weights(program, task.shared.data(), derivative),
        plain(code(program.plain)), record(code(program.record)),
        timed(reads_time(program)) {}

  T rtol(int row) const { return task.rtol[row * task.rtol_step]; }
  T atol(int row) const { return task.atol[row * task.atol_step]; }

private:
  Code<T> code(const Layout& layout) const {
    return {program, layout, task.shared.data(), weights.panels.data(), weights.transposed.data()};
  }
};

// Where an evaluation finds its numbers.
template <class T>
Frame<T> frame_of(T* scratch, T* saved, T* time, T* state, T* slope, T* own) {
  Frame<T> f;
  f.at[static_cast<int>(Place::scratch)] = scratch;
  f.at[static_cast<int>(Place::saved)] = saved;
  f.at[static_cast<int>(Place::state)] = state;
  f.at[static_cast<int>(Place::time)] = time;
  f.at[static_cast<int>(Place::slope)] = slope;
  f.at[static_cast<int>(Place::own)] = own;
  return f;
}

}  // namespace thalweg::THALWEG_ISA
