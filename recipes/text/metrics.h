#pragma once
// How GLUE (Wang et al., ICLR 2019) scores its tasks: the formulas of scikit-learn and SciPy. Each metric
// takes all predictions of a split at once, so neither batches nor ranks can change it.

#include <cstdint>
#include <span>

namespace taper {

// Classes are numbered from 0; there are as many predictions as labels, at least one (Failure otherwise).

/// The share of predictions that are their labels.
double accuracy(std::span<const int32_t> predicted, std::span<const int32_t> labels);
/// 2 tp / (2 tp + fp + fn) of class 1; 0 where nothing is in it.
double f1_binary(std::span<const int32_t> predicted, std::span<const int32_t> labels);
/// The mean of every class's F1, over the classes that some prediction or label is in.
double f1_macro(std::span<const int32_t> predicted, std::span<const int32_t> labels);
/// Matthews' correlation coefficient, for any number of classes (Gorodkin 2004); 0 where the predictions or
/// the labels are all of one class.
double matthews(std::span<const int32_t> predicted, std::span<const int32_t> labels);

/// Pearson's correlation; NaN where either side is constant, or a number is not finite.
double pearson(std::span<const double> predicted, std::span<const double> scores);
/// Pearson's correlation of ranks, where equal values share the mean of their ranks; NaN as pearson.
double spearman(std::span<const double> predicted, std::span<const double> scores);

}  // namespace taper
