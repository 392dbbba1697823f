# SPDX-License-Identifier: BSD-3-Clause
# nll from R, through reticulate. A line that begins with `#>` is what the lines before it print.
#
#     RETICULATE_PYTHON=/path/to/environment/bin/python Rscript from_r.R
#
# The environment has nll and a NumPy that reticulate knows: NumPy 1.26 for Debian 12's
# r-cran-reticulate (1.28), NumPy 2 from reticulate 1.39 on.

library(reticulate)
nll <- import("nll")

# ---- What goes in
#
# Matrices and arrays of doubles are input as they are: NumPy reads R's own memory, column by column.
# The labels of R's classes count from 1, and numbers that must be integers are written with an L. Labels
# that are doubles become integers by as.integer, or by storage.mode(target) <- "integer", which keeps
# dimensions.

logits <- rbind(c(2, 0.5, 0.1), c(0, 3, 0), c(1, 1, 1))  # (N, C): three samples, three classes
target <- c(1L, 2L, 3L)
cat(nll$cross_entropy(logits, target, index_base = 1L), "\n")
#> 0.503438

# A vector goes through a list of Python, and one of length 1 arrives as a number. Give array(target): it
# is read in place, and a batch may have one sample.

cat(nll$cross_entropy(logits[1, , drop = FALSE], array(1L), index_base = 1L), "\n")
#> 0.3167787

# A factor arrives as its words; as.integer gives their numbers, which count from 1. NA is an integer,
# too: ignored if ignore_index says so.

animals <- factor(c("cat", "dog", NA), levels = c("cat", "dog", "owl"))
cat(nll$cross_entropy(logits, array(as.integer(animals)), index_base = 1L, ignore_index = NA_integer_), "\n")
#> 0.2058508

# ---- What comes back
#
# A loss is a number; a gradient is an array with input's dimensions, losses that are not reduced one with
# target's; several results are a list. In the children of parallel::mclapply, nll takes one thread each.

result <- nll$cross_entropy_value_and_grad(logits, array(target), index_base = 1L)
cat(result[[1]], "\n")
#> 0.503438
print(round(result[[2]], 4))
#>         [,1]    [,2]    [,3]
#> [1,] -0.0905  0.0542  0.0363
#> [2,]  0.0151 -0.0302  0.0151
#> [3,]  0.1111  0.1111 -0.2222

# ---- Errors
#
# They are conditions of R. Positions are Python's, which count from 0: target[2] is R's target[3].

message_of <- function(call) cat(trimws(tryCatch(call, error = conditionMessage)), "\n")
message_of(nll$cross_entropy(logits, c(1L, 2L, 7L), index_base = 1L))
#> IndexError: target[2] is 7, outside [1, 4) (ignore_index is -100)
message_of(nll$cross_entropy(logits, c(1, 2, 3), index_base = 1L))
#> TypeError: target has dtype float64; labels must be integers: write target.astype(int), or in R as.integer(target)
message_of(nll$cross_entropy(logits, target, index_base = 1))
#> TypeError: index_base is 1.0; it must be an integer: write 1, or in R 1L

# ---- Instead of nn_nll_loss of the package torch
#
# Scores of three samples and five classes, normalised over the classes.

scores <- matrix(sin(1:15), 3, 5)
log_probability <- nll$log_softmax(scores)
target <- c(2L, 1L, 5L)
cat(nll$nll_loss(log_probability, array(target), index_base = 1L), "\n")
#> 1.682967
cat(mean(-log_probability[cbind(1:3, target)]), "in R itself\n")
#> 1.682967 in R itself

# Five images of 8 x 8 pixels and four classes: (N, C, height, width), and a label for each pixel.

scores <- array(sin(1:1280), c(5, 4, 8, 8))
target <- array(rep(1:4, 80), c(5, 8, 8))
cat(nll$nll_loss(nll$log_softmax(scores), target, index_base = 1L), "\n")
#> 1.625251
weight <- c(1, 2, 0.5, 0)
cat(nll$nll_loss(nll$log_softmax(scores), target, weight, index_base = 1L, ignore_index = 2L), "\n")
#> 1.635874
