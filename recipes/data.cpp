#include "recipes/data.h"

#include "recipes/images.h"
#include "recipes/labelled_text.h"
#include "recipes/masked_text.h"
#include "runtime/error.h"

namespace taper {

int64_t Data::steps_per_epoch(const StageOptions& stage, const std::string& name) const {
  int64_t steps = facts().train / stage.batch_size;
  if (steps == 0)
    throw UserError("{}.batch_size is {}, but there are only {} training samples; lower it", name,
                    stage.batch_size, facts().train);
  return steps;
}

std::vector<double> Data::score(const std::vector<double>&) const {
  throw Failure("this data has no labels to score");
}

std::unique_ptr<Data> open_data(const Configuration& configuration) {
  if (configuration.data.format == "text") return std::make_unique<MaskedText>(configuration);
  if (configuration.data.labelled()) return std::make_unique<LabelledText>(configuration);
  return std::make_unique<Images>(configuration);
}

}  // namespace taper
