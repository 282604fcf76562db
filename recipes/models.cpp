#include "recipes/models.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <thread>

#include "layers/resnet.h"
#include "runtime/error.h"

namespace taper {

namespace {
constexpr int64_t kStreamsPerGpu = 2;
}  // namespace

Engine::Engine(const Configuration& configuration, const std::string& device, Communicator& ranks)
    : backend(make_backend(device, {.tf32 = configuration.precision == "tf32",
                                    .place = ranks.place(),
                                    .matmul = provider_named(configuration.matmul),
                                    .convolution = provider_named(configuration.convolution),
                                    .choices = choices})),
      connected(backend->connect(ranks)),
      shards(configuration.shards),
      ranks(connected ? *connected : ranks) {
  type = configuration.precision == "bf16" ? DType::bf16 : DType::f32;
  // What this process may use: all of the machine, or less where a launcher has bound it to some cores.
  auto cores = static_cast<int64_t>(std::max(1u, std::thread::hardware_concurrency()));
  cores = std::min<int64_t>(cores, sysconf(_SC_NPROCESSORS_ONLN) / ranks.local_ranks());
  // A GPU is filled by a few streams; more would only hold more memory.
  int64_t at_once = device == "cuda" ? kStreamsPerGpu : cores / configuration.threads_per_shard;
  // Ranks that divide units have more shards each than those that divide batches.
  int64_t most = configuration.imitate.parallel == "units" ? shards : shards / ranks.ranks();
  int64_t workers = std::clamp<int64_t>(at_once, 1, std::max<int64_t>(1, most));
  team = std::make_unique<Team>(*backend, static_cast<int>(workers),
                                static_cast<int>(configuration.threads_per_shard));
  choices->freeze(ranks.ranks() > 1);  // until they agree
}

BertSpec bert_spec(const Configuration& configuration, const DataFacts& data, bool widened) {
  const NetworkOptions& options = configuration.network;
  BertSpec spec{.vocabulary = options.vocab_size != 0 ? options.vocab_size : data.vocabulary,
                .positions = options.max_position_embeddings,
                .types = options.type_vocab_size,
                .hidden = options.hidden_size,
                .layers = options.num_hidden_layers,
                .heads = options.num_attention_heads,
                .intermediate = options.intermediate_size,
                .activation = options.hidden_act == "gelu_new" ? Activation::gelu_tanh : Activation::gelu,
                .eps = options.layer_norm_eps,
                .dropout = options.hidden_dropout_prob,
                .attention_dropout = options.attention_probs_dropout_prob};
  if (data.labelled) {
    spec.head = BertSpec::Head::classification;
    spec.classes = data.classes;
  } else if (data.questions) {
    spec.head = BertSpec::Head::question_answering;
  }
  if (!widened) return spec;
  const double factor = configuration.widen.factor;
  if (configuration.widen.kind == "inner") {
    spec.inner = factor;
    return spec;
  }
  for (int64_t* width : {&spec.hidden, &spec.heads, &spec.intermediate})
    *width = std::llround(static_cast<double>(*width) * factor);  // whole: check_configuration
  return spec;
}

std::unique_ptr<Network> make_network(const Configuration& configuration, const DataFacts& data,
                                      bool widened) {
  const NetworkOptions& options = configuration.network;
  if (options.kind == "bert") return make_bert(bert_spec(configuration, data, widened));
  ResNetSpec spec;
  spec.style = options.style == "cifar" ? ResNetSpec::Style::cifar : ResNetSpec::Style::imagenet;
  spec.block = options.block == "basic" ? ResNetSpec::BlockKind::basic : ResNetSpec::BlockKind::bottleneck;
  spec.depths = blocks_per_stage(options);
  spec.width = options.width;
  spec.shortcuts = options.kind != "plain";
  spec.activation = options.activation == "tanh" ? Activation::tanh : Activation::relu;
  spec.channels = data.channels;
  spec.classes = options.classes != 0 ? options.classes : data.classes;
  spec.zero_init_residual = options.zero_init_residual;
  if (widened) (configuration.widen.kind == "full" ? spec.full : spec.inner) = configuration.widen.factor;
  return make_resnet(spec);
}

BridgedNetwork make_bridged(const Configuration& configuration, Network& thin, const Network& wide) {
  BridgeKind kind = configuration.widen.kind != "full"        ? BridgeKind::none
                    : configuration.imitate.bridges == "free" ? BridgeKind::free
                                                              : BridgeKind::tied;
  return {thin, wide, make_units(thin, configuration.imitate.unit == "stage"), kind};
}

Model& Models::operator[](const std::string& name) {
  auto found = models_.find(name);
  if (found == models_.end()) throw Failure("there is no {} network yet", name);
  return found->second;
}

std::vector<std::string> Models::names() const {
  std::vector<std::string> result;
  for (const char* name : {"baseline", "wide", "thin"})
    if (has(name)) result.emplace_back(name);
  return result;
}

Model& Models::make(const std::string& name, bool bridged) {
  Model model;
  model.network = make_network(configuration_, data_, name == "wide");
  if (bridged) {
    model.bridged = std::make_unique<BridgedNetwork>(
        make_bridged(configuration_, *model.network, *(*this)["wide"].network));
  } else {
    model.bridged = std::make_unique<BridgedNetwork>(*model.network);
  }
  engine_.team->run_one([&](Stream& stream) {
    model.network->store().allocate(stream, engine_.type);
    auto seed = static_cast<uint64_t>(configuration_.seed);
    const NetworkOptions& options = configuration_.network;
    if (options.kind == "bert")
      initialize_bert(*model.network, stream, seed, options.initializer_range);
    else
      initialize(*model.network, stream, seed, options.zero_init_residual);
  });
  return models_[name] = std::move(model);
}

void Models::merge() {
  Model bridged = std::move((*this)["thin"]);
  Model& plain = make("thin", false);
  taper::merge(*engine_.team, *bridged.bridged, *plain.network);
  plain.training_flops = bridged.training_flops;
  plain.teacher_flops = bridged.teacher_flops;
}

std::vector<Cost> Models::costs(const std::string& name) const {
  return make_network(configuration_, data_, name == "wide")->costs(data_.extent);
}

HostTensors Models::save(const std::string& only) const {
  HostTensors result;
  engine_.team->run_one([&](Stream& stream) {
    for (const auto& [name, model] : models_)
      if (only.empty() || name == only) copy_weights(stream, model.network->store(), name + ".", result);
  });
  return result;
}

void Models::load(const SafetensorsFile& weights, const std::string& shown, bool merged,
                  const std::string& only) {
  for (const char* name : {"baseline", "wide", "thin"}) {
    std::string prefix = std::string(name) + ".";
    bool held = std::any_of(weights.tensors().begin(), weights.tensors().end(),
                            [&](const TensorBytes& tensor) { return tensor.name.starts_with(prefix); });
    if (!held || (!only.empty() && name != only)) continue;
    Model& model = make(name, name == std::string("thin") && configuration_.runs("imitate") && !merged);
    engine_.team->run_one(
        [&](Stream& stream) { set_weights(weights, shown, prefix, stream, model.network->store()); });
  }
}

bool belongs(const std::string& name, const std::string& prefix) { return name.starts_with(prefix + "."); }

void set_layer_rates(Network& network, double decay) {
  const std::vector<Block>& blocks = network.blocks();
  std::vector<std::string> head = network.head_parts();
  head.emplace_back("bridge");
  for (Parameter& p : network.store().all()) {
    auto holds = [&](const std::string& part) { return belongs(p.name, part); };
    auto block = std::ranges::find_if(blocks, holds, &Block::name);
    const auto above = std::any_of(head.begin(), head.end(), holds) ? 0
                       : block != blocks.end()                      ? blocks.end() - block
                                                                    : std::ssize(blocks) + 1;
    p.rate = std::pow(decay, static_cast<double>(above));
  }
}

}  // namespace taper
