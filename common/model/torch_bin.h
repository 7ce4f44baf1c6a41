/*
 * torch_bin.h - tensors of a file written by torch.save (PyTorch 1.6 or later): a zip archive with a
 * pickle of the names and shapes, and each storage's bytes as an entry of its own.
 *
 * The pickle is read as data: nothing is executed, a name that is not one of those a state dict
 * needs is refused (pickle.h).  The file stays mapped.  Files of older PyTorch (no zip) are refused
 * with the remedy.  A state dict inside {"state_dict": ...} or {"model": ...} is found.
 */
#ifndef TY_MODEL_TORCH_BIN_H
#define TY_MODEL_TORCH_BIN_H

#include "common/math/dtype.h"

typedef struct ty_torch_bin ty_torch_bin;

ty_status ty_torch_bin_open(ty_torch_bin **out, const char *path, ty_err *err);
void ty_torch_bin_close(ty_torch_bin **b);
int ty_torch_bin_count(const ty_torch_bin *b);
const char *ty_torch_bin_name(const ty_torch_bin *b, int i);
/* Type, shape and size; data is NULL. */
void ty_torch_bin_info(const ty_torch_bin *b, int i, ty_tensor *t);
/* The same with data, row-major: inside the mapped file where the tensor lies so (*owned NULL), else
 * in *owned, which the caller frees.  Fails: TY_ENOMEM. */
ty_status ty_torch_bin_load(const ty_torch_bin *b, int i, ty_tensor *t, void **owned, ty_err *err);

#endif
