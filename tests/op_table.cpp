#include "tests/op_table.h"

#include <xxhash.h>

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <limits>
#include <optional>
#include <thread>

#include "runtime/error.h"
#include "tests/op_run.h"

namespace taper::ops {

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
bool is_floating(DType type) { return type == DType::f32 || type == DType::bf16 || type == DType::f64; }

double unit_roundoff(DType type) {
  switch (type) {
    case DType::f32:
      return 0x1p-24;
    case DType::bf16:
      return 0x1p-8;
    default:
      return 0x1p-53;
  }
}

Case rounded(Case op_case, const Subject& subject) {
  for (Argument& argument : op_case.arguments) {
    DType element = element_type(argument.kind, subject.type);
    if (is_floating(element)) argument.values = round_to(std::move(argument.values), element);
    if (subject.tf32 && argument.kind == Kind::activation)
      for (double& value : argument.values) value = round_to_tf32(value);
  }
  return op_case;
}

Values inputs_of(const Case& op_case) {
  Values inputs;
  for (const Argument& argument : op_case.arguments)
    if (argument.role != Role::output) inputs[argument.name] = argument.values;
  return inputs;
}

/// The worst element of one output, if it is beyond its tolerance.
std::optional<std::string> compare(const Argument& argument, DType type, const std::vector<double>& result,
                                   const std::vector<double>& expected, const std::vector<double>* bound,
                                   bool may_spread) {
  DType element = element_type(argument.kind, type);
  double worst = 0;
  std::optional<std::string> complaint;
  for (size_t i = 0; i < expected.size(); ++i) {
    double want = is_floating(element) ? round_to(expected[i], element) : expected[i];
    auto report = [&](double excess, const std::string& why) {
      if (complaint && !(excess > worst)) return;
      worst = excess;
      complaint = fmt::format("{}[{}] is {:.9g}, should be {:.9g}{}", argument.name, i, result[i], want, why);
    };
    if (may_spread && !std::isfinite(result[i])) continue;
    if (std::isfinite(want) != std::isfinite(result[i])) {
      report(kInfinity, "");
    } else if (std::isfinite(want)) {
      double tolerance = bound == nullptr ? 0 : 2 * (*bound)[i] + 2 * ulp(want, element);
      double error = std::abs(result[i] - want);
      if (!(error <= tolerance))
        report(tolerance > 0 ? error / tolerance : kInfinity, fmt::format(", within {:.3g}", tolerance));
    }
  }
  return complaint;
}

/// The case as rounded for the subject, with what its outputs should be.
class Expectation {
 public:
  Expectation(const Subject& subject, const Case& op_case)
      : subject_(subject), case_(rounded(op_case, subject)), outputs_(reference(case_)) {
    bounds_ = case_.bound(case_, {unit_roundoff(subject.type), unit_roundoff(accumulator(subject.type))},
                          inputs_of(case_), outputs_);
  }
  const Case& op_case() const { return case_; }

  std::vector<std::string> complaints(const Outcome& outcome, const std::string& when,
                                      bool may_spread = false) const {
    std::vector<std::string> result;
    auto complain = [&](const std::string& what) {
      result.push_back(fmt::format("{}, {}{}: {}", to_string(subject_), case_.name, when, what));
    };
    for (const std::string& what : outcome.complaints) complain(what);
    for (const auto& [name, values] : outcome.values) {
      auto bound = bounds_.find(name);
      if (auto what = compare(case_.argument(name), subject_.type, values, outputs_.at(name),
                              bound == bounds_.end() ? nullptr : &bound->second, may_spread))
        complain(*what);
    }
    return result;
  }

 private:
  const Subject& subject_;
  Case case_;
  Values outputs_, bounds_;
};

void append(std::vector<std::string>& all, std::vector<std::string> more) {
  all.insert(all.end(), more.begin(), more.end());
}

/// Two workers, each with its own stream, at the same time.
bool two_workers_agree(const Subject& subject, const Case& op_case, const Outcome& expected,
                       int repetitions) {
  std::barrier start(2);
  bool agree[2] = {true, true};
  std::exception_ptr failures[2];
  auto work = [&](bool& result) {
    std::unique_ptr<Stream> stream = subject.backend->make_stream(1);
    for (int i = 0; i < repetitions; ++i) {
      start.arrive_and_wait();
      result = run(*subject.backend, *stream, subject.type, op_case) == expected && result;
    }
  };
  // An op's failure must reach the test: it may neither end a thread nor leave the other one waiting.
  auto guarded = [&](size_t worker) {
    try {
      work(agree[worker]);
    } catch (...) {
      failures[worker] = std::current_exception();
      start.arrive_and_drop();
    }
  };
  {
    std::jthread other(guarded, 1);
    guarded(0);
  }
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
  return agree[0] && agree[1];
}

std::vector<std::string> check_planted(const Subject& subject, Stream& stream, const Case& op_case) {
  std::vector<std::string> result;
  for (const std::string& name : op_case.plant)
    for (double value : op_case.planted) {
      Case planted = op_case;
      for (Argument& argument : planted.arguments)
        // Not the first element nor the last, where a loop's remainder is not.
        if (argument.name == name) argument.values[argument.values.size() * 2 / 3] = value;
      Expectation expectation(subject, planted);
      append(result,
             expectation.complaints(run(*subject.backend, stream, subject.type, expectation.op_case()),
                                    fmt::format(" with {} in {}", value, name), op_case.may_spread));
    }
  return result;
}

// With TAPER_OP_BITS=FILE in the environment, what a case gave is noted there: runs that must give the same
// bits write the same file. With TAPER_OP_BITS_ONLY=1 too, that is all: the noted bits are then still to be
// compared.
void note_bits(const Subject& subject, const Case& op_case, const Outcome& outcome) {
  static const char* const path = std::getenv("TAPER_OP_BITS");
  if (path == nullptr) return;
  std::ofstream file(path, std::ios::app);
  file << fmt::format("{}, {}", to_string(subject), op_case.name);
  for (const auto& [name, bytes] : outcome.bytes)
    file << fmt::format(" {}={:016x}", name, XXH3_64bits(bytes.data(), bytes.size()));
  file << '\n';
  TAPER_CHECK(file.flush().good(), "{} cannot be written", path);
}

// With TAPER_OP_BRIEF=1 in the environment, a case runs on a simulated GPU once for each place of its
// arguments: what watches its accesses to memory makes a run many times longer, and sees them all in these.
bool brief(const Backend& backend) {
  static const bool asked = std::getenv("TAPER_OP_BRIEF") != nullptr;
  return asked && backend.name() == "sim";
}

}  // namespace

std::vector<std::string> check(const Subject& subject, const Case& op_case, int repetitions) {
  Expectation expectation(subject, op_case);
  const Case& c = expectation.op_case();
  Backend& backend = *subject.backend;
  std::unique_ptr<Stream> stream = backend.make_stream(1), stream_of_two = backend.make_stream(2);

  Outcome first = run(backend, *stream, subject.type, c);
  note_bits(subject, c, first);
  if (std::getenv("TAPER_OP_BITS") != nullptr && std::getenv("TAPER_OP_BITS_ONLY") != nullptr) return {};
  std::vector<std::string> result = expectation.complaints(first, "");
  if (!brief(backend)) {
    if (!(run(backend, *stream, subject.type, c) == first))
      result.push_back(fmt::format("{}, {}: a second run gives other bits", to_string(subject), c.name));
    if (!two_workers_agree(subject, c, first, repetitions))
      result.push_back(
          fmt::format("{}, {}: two workers at the same time get other bits", to_string(subject), c.name));
    append(result,
           expectation.complaints(run(backend, *stream_of_two, subject.type, c), " with two threads"));
    append(result, check_planted(subject, *stream, c));
  }
  append(result, expectation.complaints(run(backend, *stream, subject.type, c, {}, Place::odd),
                                        " with arguments aligned to their elements only"));
  for (const Alias& alias : c.aliases)
    append(result, expectation.complaints(run(backend, *stream, subject.type, c, alias),
                                          fmt::format(" with {} in {}", alias.first, alias.second)));
  return result;
}

Values reference(const Case& op_case) {
  static const std::unique_ptr<Backend> backend = make_reference_backend();
  std::unique_ptr<Stream> stream = backend->make_stream(1);
  return run(*backend, *stream, DType::f64, op_case).values;
}

Case& Case::input(const std::string& argument, Kind kind, std::vector<double> values) {
  auto size = static_cast<int64_t>(values.size());
  arguments.push_back({argument, kind, Role::input, size, std::move(values)});
  return *this;
}

Case& Case::update(const std::string& argument, Kind kind, std::vector<double> values) {
  auto size = static_cast<int64_t>(values.size());
  arguments.push_back({argument, kind, Role::update, size, std::move(values)});
  return *this;
}

Case& Case::output(const std::string& argument, Kind kind, int64_t size) {
  arguments.push_back({argument, kind, Role::output, size, {}});
  return *this;
}

Case& Case::may_alias(const std::string& to, const std::string& from) {
  aliases.emplace_back(to, from);
  return *this;
}

Case& Case::plant_all(std::vector<std::string> inputs) {
  plant = std::move(inputs);
  planted = {kNaN, kInfinity, -kInfinity};
  return *this;
}

Case& Case::plant_nan_and_inf(std::vector<std::string> inputs) {
  plant = std::move(inputs);
  planted = {kNaN, kInfinity};
  return *this;
}

const Argument& Case::argument(const std::string& argument) const {
  for (const Argument& candidate : arguments)
    if (candidate.name == argument) return candidate;
  throw Failure("{} has no argument {}", name, argument);
}

std::string to_string(const Subject& subject) {
  return fmt::format("{}_{}", subject.backend->name(), subject.tf32 ? "tf32" : taper::name(subject.type));
}

const std::vector<Subject>& subjects() {
  static const std::vector<Subject> all = [] {
    std::vector<Subject> result{{make_reference_backend(), DType::f64}};
    for (const std::string& device : devices()) {
      std::shared_ptr<Backend> backend = make_backend(device);
      result.push_back({backend, DType::f32});
      result.push_back({backend, DType::bf16});
    }
    return result;
  }();
  return all;
}

const std::vector<Subject>& product_subjects() {
  static const std::vector<Subject> all = [] {
    std::vector<Subject> result = subjects();
    if (!cuda_device().empty())
      result.push_back({make_backend(cuda_device(), {.tf32 = true}), DType::f32, true});
    return result;
  }();
  return all;
}

Bound sum_of(double terms) {
  return [terms](const Case& op_case, const Precision& precision, const Values&, const Values&) {
    Case absolute = op_case;
    for (Argument& argument : absolute.arguments)
      for (double& value : argument.values) value = std::abs(value);
    Values bounds = reference(absolute);
    for (auto& [name, values] : bounds)
      for (double& value : values) value *= terms * precision.accumulator;
    return bounds;
  };
}

Bound exact() {
  return [](const Case&, const Precision&, const Values&, const Values&) { return Values{}; };
}

double ulp(double value, DType type) {
  int digits = type == DType::bf16 ? 8 : type == DType::f32 ? 24 : 53;
  double smallest = type == DType::f64 ? std::numeric_limits<double>::min()
                                       : static_cast<double>(std::numeric_limits<float>::min());
  if (value == 0 || !std::isfinite(value)) return smallest;
  return std::max(smallest, std::ldexp(1.0, std::ilogb(value) - digits + 1));
}

double round_to(double value, DType type) {
  if (type == DType::f32) return static_cast<float>(value);
  if (type != DType::bf16 || !std::isfinite(value) || value == 0) return value;
  // In double directly: by way of float would round twice.
  double unit = std::ldexp(1.0, std::max(std::ilogb(value), -126) - 7);
  double result = std::nearbyint(value / unit) * unit;
  return std::abs(result) > 0x1.FEp127 ? std::copysign(kInfinity, value) : result;
}

double round_to_tf32(double value) {
  auto single = static_cast<float>(value);
  if (single == 0 || !std::isfinite(single)) return single;
  // std::round has ties away from zero; below the normal numbers the unit stays.
  double unit = std::ldexp(1.0, std::max(std::ilogb(single), -126) - 10);
  return static_cast<float>(std::round(static_cast<double>(single) / unit) * unit);
}

std::vector<double> round_to(std::vector<double> values, DType type) {
  for (double& value : values) value = round_to(value, type);
  return values;
}

}  // namespace taper::ops
