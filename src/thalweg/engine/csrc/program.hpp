// A program and where its values live.
//
// A tile carries `lanes` samples side by side. A row holds one number of each of them, contiguous; a value is as many
// rows as it has entries. All offsets here are in rows. See docs/design/engine.md.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace thalweg {

enum class Op : std::uint8_t {
#define THALWEG_OPERATION(name) name,
#include "operations.def"
#undef THALWEG_OPERATION
    count
};

// What an instruction reads: rows of a value, or numbers that all samples share.
struct Operand {
    bool shared = false;
    int number = 0;
    int row = 0;
    int stride = 1;  // 0: one row, or one number, for all rows of the result

    bool is(int value) const { return !shared && number == value; }
};

struct Instruction {
    Op op{};
    int size = 0;
    std::vector<Operand> operands;
    std::vector<int> index;
    std::vector<double> scalars;
    std::vector<char> founds;  // of each operand: whether the way back, which meets it here first, writes all of its adjoint
};

// Where a value lives. `state`, `time` and `slope` are what the loop hands to an evaluation: the state to evaluate at,
// the time, and where dy/dt goes; `own` are the rows of each sample's own arguments.
enum class Place : std::uint8_t { scratch, saved, state, time, slope, own, count };

struct Home {
    Place place = Place::scratch;
    int row = 0;
};

// The rows of every value and of every adjoint, with no more scratch rows than are live at a time.
struct Layout {
    std::vector<Home> home;  // of each value
    int scratch = 0;         // rows in all
    int saved = 0;           // rows that one evaluation leaves for its derivative
    bool reads_slope = false;  // whether its derivative reads dy/dt too
};

struct Program {
    int dimension = 0;           // rows of the state
    int own = 0;                 // rows of the arguments of each sample
    std::vector<int> sizes;      // rows of each value: time, state, arguments, results
    std::vector<int> shared;     // entries of each shared tensor
    std::vector<Instruction> code;
    Operand output;
    int inputs = 0;              // how many values are inputs

    std::vector<int> last_reader;  // of each value: the instruction that reads it last, the one behind all for dy/dt, or -1
    Layout plain;                // where nothing is kept
    Layout record;               // where a derivative will be asked for
    std::vector<Home> adjoint;   // of each value: in `scratch`, or in `saved` for what a whole step's product needs
    int adjoint_rows = 0;
    int kept_rows = 0;
    std::vector<int> summed;     // the values whose adjoints nobody founds, so that they begin at zero
    bool light = false;          // whether it multiplies no matrix and has few rows, so that tiles of many samples pay
    bool direct_output = false;  // whether the last result is written where dy/dt goes, and is copied nowhere

    const Instruction& maker(int value) const { return code[value - inputs]; }
    void lay_out();
};

// From flat integers, as `Program` of program.py is encoded; throws std::invalid_argument on what is malformed.
Program parse(const std::vector<int>& inputs, const std::vector<int>& shared, const std::vector<int>& code,
              const std::vector<double>& scalars, const std::vector<int>& output);

// The names of all operations, in the order of their codes.
std::vector<std::string> operations();

// What the derivative of an operation reads of the forward pass.
struct Saves {
    bool inputs, output;
};
Saves saves(Op op);
bool elementwise(Op op);

}  // namespace thalweg
