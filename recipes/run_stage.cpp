// The stages themselves: what each trains, on which loss, and the loop that all share.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "layers/bert_weights.h"
#include "layers/finite.h"
#include "recipes/run.h"
#include "recipes/step.h"
#include "runtime/error.h"
#include "runtime/philox.h"

namespace taper {

Plan make_plan(const Data& data, const StageOptions& stage, const std::string& name) {
  Plan plan;
  int64_t epoch = plan.steps_per_epoch = data.steps_per_epoch(stage, name);
  plan.steps = stage.steps > 0 ? stage.steps : stage.epochs * epoch;
  plan.schedule = {.kind = stage.schedule == "step"     ? Schedule::Kind::step
                           : stage.schedule == "cosine" ? Schedule::Kind::cosine
                           : stage.schedule == "linear" ? Schedule::Kind::linear
                                                        : Schedule::Kind::constant,
                   .lr = stage.lr,
                   .steps = plan.steps,
                   .warmup = stage.warmup_steps > 0 ? stage.warmup_steps : stage.warmup_epochs * epoch,
                   .milestones = stage.milestones,
                   .gamma = stage.gamma};
  for (int64_t& milestone : plan.schedule.milestones) milestone *= epoch;
  using Rule = OptimizerOptions::Rule;
  plan.optimizer = {.rule = stage.optimizer == "adamw"  ? Rule::adamw
                            : stage.optimizer == "lamb" ? Rule::lamb
                                                        : Rule::sgd,
                    .momentum = stage.momentum,
                    .nesterov = stage.nesterov,
                    .beta1 = stage.betas.at(0),
                    .beta2 = stage.betas.at(1),
                    .eps = stage.eps,
                    .weight_decay = stage.weight_decay,
                    .decay_norms_and_biases = stage.decay_norms_and_biases,
                    .clip_norm = stage.clip_norm,
                    .ema_decay = stage.ema_decay};
  return plan;
}

namespace {

double forward_flops(const std::vector<Cost>& parts) { return static_cast<double>(total(parts).flops); }

}  // namespace

std::string Run::unit_name(const Job& job) {
  return job.targets.size() == 1 ? ", unit " + job.targets[0].name : "";
}

uint64_t Run::key() const {
  uint64_t seed = fold(0, static_cast<uint64_t>(configuration_.seed));
  return fold(fold(seed, hash(stage())), static_cast<uint64_t>(position_.unit));
}

int64_t Run::units() const {
  return stage() == "imitate" ? static_cast<int64_t>(imitation_->rounds().size()) : 1;
}

// Makes the networks that the stage starts from, where they are not there yet.
void Run::begin_stage() {
  const std::string& name = stage();
  bool fresh = position_.unit == 0 && position_.step == 0;
  if (name == "imitate" || name == "match") {
    if (!models_.has("wide")) throw Failure("stage {} without a wide network", name);
    if (!models_.has("thin")) models_.make("thin", configuration_.runs("imitate"));
  } else if (name != "finetune" && !models_.has(name)) {
    models_.make(name, false);
    if (!configuration_.network.encoder.empty()) read_encoder(name);
  }
  if (name != "imitate") return;
  imitation_ = std::make_unique<Imitation>(configuration_, engine_, *data_, models_["thin"], models_["wide"]);
  if (fresh) imitation_->initialize();
}

void Run::read_encoder(const std::string& network) {
  const std::string& file = configuration_.network.encoder;
  const BertSpec spec = bert_spec(configuration_, data_->facts(), network == "wide");
  engine_.team->run_one([&](Stream& stream) {
    read_bert_weights(SafetensorsFile::read(file), file, spec, stream, *models_[network].network);
  });
}

Run::Job Run::make_job(Communicator& ranks) {
  const std::string& name = stage();
  const StageOptions& options = configuration_.stage(name);
  Job job{.options = options,
          .plan = make_plan(*data_, options, name),
          .network = {},
          .objective = {},
          .student_flops = 0,
          .teacher_flops = 0,
          .ranks = ranks};
  if (configuration_.cuda_graphs) job.graphs = std::make_unique<ShardGraphs>();
  job.network = name == "baseline" || name == "wide" ? name : "thin";
  Model& model = models_[job.network];
  if (name == "imitate") {
    job.targets = imitation_->rounds()[static_cast<size_t>(position_.unit)];
    imitation_->select(job.targets);
    set_layer_rates(*model.network, 1);
    job.objective = imitation_->objective(job.targets, imitation_->input());
    ImitationCost cost = imitation_->cost(job.targets);
    job.student_flops = cost.student;
    job.teacher_flops = cost.teacher;
    return job;
  }
  bool tied = model.bridged->kind() == BridgeKind::tied;
  for (Parameter& p : model.network->store().all())
    p.trainable = !p.is_statistic() && !(tied && belongs(p.name, "bridge"));
  set_layer_rates(*model.network, options.layer_decay);
  job.student_flops =
      3 * (forward_flops(models_.costs(job.network)) + bridge_flops(*model.bridged, data_->facts().extent));
  const BridgedNetwork& student = *model.bridged;
  if (name == "match") {
    job.teacher_flops = forward_flops(models_.costs("wide"));
    job.objective = [&student, &teacher = *models_["wide"].bridged,
                     temperature = configuration_.match.temperature](Tape& tape, const ShardInput& input) {
      Tape inference(tape.backend, tape.stream, tape.type);
      inference.sequences = tape.sequences;
      Tensor goal = teacher.forward(inference, input.input)->value;
      return ShardLoss{kl_divergence(tape, goal, student.forward(tape, input.input), temperature),
                       goal.dim(0)};
    };
  } else {
    job.objective = [&student, smoothing = options.label_smoothing](Tape& tape, const ShardInput& input) {
      return label_loss(tape, student.forward(tape, input.input), input, smoothing);
    };
  }
  return job;
}

bool Run::run_stage() {
  const std::string name = stage();
  auto begin = std::chrono::steady_clock::now();
  bool fresh = position_.unit == 0 && position_.step == 0;
  StageEvent event{.stage = name, .steps = 0};
  double before_student = 0, before_teacher = 0;
  if (name == "merge") {
    log_->stage_begin(event);
    models_.merge();
  } else if (name == "task") {
    log_->stage_begin(event);
    if (!run_tasks()) return false;
  } else if (name == "wide" && !configuration_.wide.weights.empty()) {
    log_->stage_begin(event);
    Model& wide = models_.make("wide", false);
    engine_.team->run_one(
        [&](Stream& stream) { read_weights(configuration_.wide.weights, stream, wide.network->store()); });
  } else {
    begin_stage();
    Job first = make_job(engine_.ranks);
    event.steps = first.plan.steps;
    event.units = units();
    fresh ? log_->stage_begin(event) : log_->stage_resume(event);
    const bool rounds = name == "imitate" && configuration_.imitate.parallel == "units";
    while (position_.unit < event.units)
      if (!(rounds ? run_round() : run_unit())) return false;
    groups_.reset();
    restored_.reset();
    Model& model = models_[first.network];
    before_student = model.training_flops;
    before_teacher = model.teacher_flops;
    for (position_.unit = 0; position_.unit < event.units; ++position_.unit) {
      Job job = make_job(engine_.ranks);
      double samples = static_cast<double>(job.plan.steps) * static_cast<double>(job.options.batch_size);
      model.training_flops += job.student_flops * samples;
      model.teacher_flops += job.teacher_flops * samples;
    }
    event.student_flops = model.training_flops - before_student;
    event.teacher_flops = model.teacher_flops - before_teacher;
  }
  event.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  log_->stage_end(event);
  engine_.team->trim();
  position_ = {position_.stage + 1, 0, 0};
  ++sequence_;
  save();
  return true;
}

bool Run::run_unit() {
  const Job job = make_job(engine_.ranks);
  agree_on_providers(job);
  if (position_.step == 0) begin_unit(job);
  optimizer_ =
      std::make_unique<Optimizer>(*engine_.team, models_[job.network].network->store(), job.plan.optimizer,
                                  configuration_.shard_optimizer ? &job.ranks : nullptr);
  if (restored_) {
    if (position_.step > 0)
      optimizer_->restore(*engine_.team, std::stoll(restored_->metadata.at("optimizer.steps")),
                          [&](const std::string& name, const Tensor& like) {
                            const TensorBytes& saved = restored_->state.tensor("optimizer." + name);
                            TAPER_CHECK(saved.dtype == like.dtype() && saved.shape == like.shape(),
                                        "{} in {}", saved.name, restored_->name);
                            return saved.bytes;
                          });
    restored_.reset();
  }
  std::unique_ptr<Batches> batches =
      data_->train_batches(job.options, key(), position_.step, job.plan.steps, share(job));
  Pace pace;
  while (position_.step < job.plan.steps) {
    Step step = take_step(job, *batches, *optimizer_, pace);
    ++sequence_;
    if (step.skipped > 0) log_->skipped(skipped_ += step.skipped);
    log_->train(step.event);
    bool ended = position_.step == job.plan.steps,
         saves = !ended && due(job, position_.step, job.options.checkpoint_every);
    // The next step would find out; but here there is none, or it would come too late.
    if (ended || saves) require_finite_weights(job);
    if (job.targets.empty() && !ended && due(job, position_.step, job.options.evaluate_every))
      evaluate_and_log(job);
    if (engine_.ranks.any(stop_requested)) {
      require_finite_weights(job);
      save();
      say_stopped();
      return false;
    }
    if (saves) save();
  }
  optimizer_->swap_average(*engine_.team);
  optimizer_.reset();
  end_unit(job);
  if (position_.unit < units()) save();
  return true;
}

bool Run::due(const Job& job, int64_t step, int64_t every) {
  return step % (every > 0 ? every : job.plan.steps_per_epoch) == 0;
}

void Run::say_stopped() {
  log_->message(fmt::format("stopped after step {} of {}; everything is saved, --resume goes on from here",
                            position_.step, stage()));
}

Run::Step Run::take_step(const Job& job, Batches& batches, Optimizer& optimizer, Pace& pace) {
  engine_.ranks.note(fmt::format("stage {}{}, step {}", stage(), unit_name(job), position_.step + 1));
  std::unique_ptr<Batch> batch = batches.next();
  double lr = job.plan.schedule.rate(position_.step);
  StepOutcome outcome = train_step(context(job), *batch, job.objective, optimizer, lr);
  if (!outcome.non_finite.empty())
    refuse(job, fmt::format("step {}", position_.step + 1), outcome.non_finite,
           origin(job, *batch) + ". No weight was changed by this step");
  ++position_.step;
  auto now = std::chrono::steady_clock::now();
  double seconds = std::chrono::duration<double>(now - std::exchange(pace.last, now)).count();
  pace.seconds_per_step = pace.seconds_per_step == 0 ? seconds : 0.9 * pace.seconds_per_step + 0.1 * seconds;
  double samples_per_s = static_cast<double>(batch->count) / pace.seconds_per_step;
  return {{.stage = stage(),
           .unit = !job.targets.empty() ? position_.unit : -1,
           .step = position_.step,
           .epoch = static_cast<double>(position_.step) / static_cast<double>(job.plan.steps_per_epoch),
           .loss = outcome.loss,
           .lr = lr,
           .items_per_s = static_cast<double>(batch->items()) / pace.seconds_per_step,
           .gflops = samples_per_s * (job.student_flops + job.teacher_flops) * 1e-9,
           .grad_norm = outcome.gradient_norm,
           .communication_s = outcome.communication.busy,
           .waited_s = outcome.communication.waited},
          outcome.skipped};
}

// Of several ranks: who makes the unit's ops is for rank 0 to find out, not for each to find out for itself.
void Run::agree_on_providers(const Job& job) {
  const bool measures = configuration_.matmul == "auto" || configuration_.convolution == "auto";
  if (!measures || engine_.ranks.ranks() == 1) return;
  taper::agree_on_providers(engine_.ranks, *engine_.choices, [&] {
    rehearse(context(job), *data_->train_batches(job.options, key(), 0, 1, share(job))->next(),
             job.objective);
  });
}

// Of imitation: measures what is still untrained.
void Run::begin_unit(const Job& job) {
  if (job.targets.empty()) return;
  estimate(job, "before");
  errors_before_ = imitation_->errors(job.targets);
}

// Measures and logs what was trained, and goes on to the next unit.
void Run::end_unit(const Job& job) {
  if (!job.targets.empty()) {
    estimate(job, "after");
    std::vector<double> errors_after = imitation_->errors(job.targets);
    for (size_t i = 0; i < job.targets.size(); ++i) {
      if (!std::isfinite(errors_after[i]))
        refuse(job, "after the last step", "the imitation error of " + job.targets[i].name,
               "nothing of it was saved");
      log_->unit({.stage = stage(),
                  .unit = &job.targets[i] - imitation_->targets().data(),
                  .name = job.targets[i].name,
                  .error_before = errors_before_[i],
                  .error_after = errors_after[i]});
    }
    if (position_.unit + 1 == units()) imitation_->finish();
  }
  if (job.targets.empty() || position_.unit + 1 == units()) evaluate_and_log(job);
  ++position_.unit;
  position_.step = 0;
  ++sequence_;
}

// Estimates the running statistics of what a unit trains anew, `when` it is "before" or "after" its steps.
void Run::estimate(const Job& job, const char* when) {
  int64_t count = configuration_.imitate.statistics_batches;
  std::unique_ptr<Batches> batches =
      data_->train_batches(job.options, fold(key(), hash(when)), 0, count, share(job));
  auto found = estimate_statistics(context(job), *batches, count,
                                   imitation_->objective(job.targets, Imitation::Input::sequential));
  if (found)
    refuse(job, fmt::format("statistics {} its steps", when), found->what,
           origin(job, *found->batch) + ". Nothing of it was saved");
}

void Run::evaluate_and_log(const Job& job) {
  if (optimizer_) optimizer_->swap_average(*engine_.team);
  Evaluation evaluation = evaluate(engine_, *data_, models_[job.network], measures_of(configuration_));
  if (position_.step == job.plan.steps && !std::isfinite(evaluation.loss))
    refuse(job, "after the last step", "the loss on the test split", "nothing of it was saved");
  log_->evaluate({.stage = stage(),
                  .unit = !job.targets.empty() ? position_.unit : -1,
                  .step = position_.step,
                  .network = job.network,
                  .loss = evaluation.loss,
                  .metrics = evaluation.metrics,
                  .samples = evaluation.samples,
                  .skipped = evaluation.skipped});
  save_best(job.network, evaluation);
  if (optimizer_) optimizer_->swap_average(*engine_.team);
}

}  // namespace taper
