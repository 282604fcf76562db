#pragma once
// The op table: every op of kernels/*.h as a list of cases, and one runner for all of them. A case names the
// op's arguments with their values, calls the op, and says how far a naive implementation may be off. What
// the runner checks of a backend is listed at check().

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace taper::ops {

/// Values of arguments by name; every element type is held in double, which holds all of ours exactly.
using Values = std::map<std::string, std::vector<double>>;

/// What an argument's elements are: of the type under test, of its accumulator, or of a fixed type.
enum class Kind { activation, accumulator, f64, f32, bf16, i32, i64, u8 };
/// input: only read. output: written with `=`. update: has a value before (`+=`, or updated in place).
enum class Role { input, output, update };

struct Argument {
  std::string name;
  Kind kind;
  Role role;
  int64_t size;
  std::vector<double> values;  ///< of inputs, and of updates before the call
};

/// The arguments' memory on the device during a call.
class Pointers {
 public:
  void set(const std::string& name, void* pointer) { pointers_[name] = pointer; }
  /// Null for an argument that the case leaves out.
  template <typename T = void>
  T* get(const std::string& name) const {
    auto found = pointers_.find(name);
    return found == pointers_.end() ? nullptr : static_cast<T*>(found->second);
  }
  void* operator[](const std::string& name) const { return get(name); }

 private:
  std::map<std::string, void*> pointers_;
};

/// Unit roundoffs of the type under test and of its accumulator.
struct Precision {
  double type, accumulator;
};

struct Case;
/// For each floating output, how far each element of a naive implementation may be from the reference before
/// it is rounded to the output's type, from the rounded inputs and the reference's outputs. Outputs that are
/// left out must be exact.
using Bound =
    std::function<Values(const Case&, const Precision&, const Values& inputs, const Values& outputs)>;

struct Case {
  std::string name;
  /// Calls the op once with the type under test.
  std::function<void(Backend&, Stream&, DType, const Pointers&)> call;
  Bound bound;
  std::vector<Argument> arguments{};
  /// {output, input}: the contract lets the output be the input's memory.
  std::vector<std::pair<std::string, std::string>> aliases{};
  /// Inputs in which NaN, +inf and -inf are planted, one at a time, unless left out of `planted`.
  std::vector<std::string> plant{};
  std::vector<double> planted{};
  /// What is planted may reach other outputs, too.
  bool may_spread = false;

  Case& input(const std::string& argument, Kind kind, std::vector<double> values);
  Case& update(const std::string& argument, Kind kind, std::vector<double> values);
  Case& output(const std::string& argument, Kind kind, int64_t size);
  Case& may_alias(const std::string& to, const std::string& from);
  /// NaN, +inf and -inf.
  Case& plant_all(std::vector<std::string> inputs);
  /// NaN and +inf, for ops whose value at -inf is a limit that the contract leaves open.
  Case& plant_nan_and_inf(std::vector<std::string> inputs);
  const Argument& argument(const std::string& argument) const;
};

/// A backend under test, a type of its activations, and whether it makes products of f32 in tf32.
struct Subject {
  std::shared_ptr<Backend> backend;
  DType type;
  bool tf32 = false;
};
/// "cpu_bf16", "sim_tf32".
std::string to_string(const Subject& subject);
/// Every backend in every type that it computes in: parametrise tests with it.
const std::vector<Subject>& subjects();
/// The same, and tf32 where there is a backend that has it: for ops that make products.
const std::vector<Subject>& product_subjects();

/// Runs a case and returns what is wrong, a sentence each; nothing is wrong with an empty result:
/// - the outputs agree with the reference's, run on the inputs as rounded to the type under test (tf32 is one
///   here): finite
///   where they are finite, not finite where they are not, and off by at most 2 bound + 2 ulp. `=` is seen by
///   outputs that start as NaN, `+=` by updates that start from known values;
/// - guard words before and behind every argument survive, and inputs keep their bits;
/// - a second run gives the same bits, and so do `repetitions` runs on each of two threads, with a stream
///   each, at the same time;
/// - a stream of two threads, arguments aligned to their elements only, and each aliasing that the contract
///   allows agree with the reference;
/// - NaN and infinities planted in an input reach the outputs that they reach in the reference, and no other
///   unless the case says that they may.
std::vector<std::string> check(const Subject& subject, const Case& op_case, int repetitions = 2);

/// The outputs of a case in double, from the reference backend.
Values reference(const Case& op_case);

/// A sum of `terms` products of inputs, each added once: terms x roundoff x the same sum of absolute values,
/// which the reference computes from the inputs' absolute values.
Bound sum_of(double terms);
/// No floating output may differ.
Bound exact();
/// The units-in-the-last-place of `value` in `type`; not below the smallest normal number, because
/// subnormals may be flushed.
double ulp(double value, DType type);
/// `value` rounded to `type`, to nearest even.
double round_to(double value, DType type);
/// `value` rounded to tf32: ten mantissa bits, ties away from zero; a number of f32.
double round_to_tf32(double value);
std::vector<double> round_to(std::vector<double> values, DType type);

/// Checks the reference's own backward: the gradient of sum_o weights[o] . outputs[o] of `forward` with
/// respect to its input `input` must be `gradient`, by central finite differences in double. Returns what is
/// wrong.
std::vector<std::string> check_gradient(const Case& forward, const Values& weights, const std::string& input,
                                        const std::vector<double>& gradient);

}  // namespace taper::ops
