/*
 * contract.h - do the pieces fit?  Contracts are the TensorSpecs of a worker's hello: what its stage
 * takes and gives, -1 for a dimension that may be anything.
 */
#ifndef TY_BROKER_CONTRACT_H
#define TY_BROKER_CONTRACT_H

#include "common/base/err.h"
#include "tyto.pb-c.h"

/* Is the hello complete?  Fails: TY_EINVAL names the field. */
ty_status broker_contract_hello(const Tyto__Hello *h, ty_err *err);
/* Everything that `to` takes must be among what `from` gives: name, dtype, number of dimensions, each
 * dimension.  Fails: TY_ECONTRACT names both stages, the dimension and both numbers. */
ty_status broker_contract_fit(const Tyto__Hello *from, const Tyto__Hello *to, ty_err *err);
/* Two workers of one stage and model must say the same.  Fails: TY_ECONTRACT. */
ty_status broker_contract_same(const Tyto__Hello *a, const Tyto__Hello *b, ty_err *err);
/* Do the tensors of a task fit what the worker takes?  Fails: TY_ESHAPE. */
ty_status broker_contract_task(const Tyto__Hello *to, const Tyto__Envelope *task, ty_err *err);

#endif
