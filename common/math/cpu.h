/*
 * cpu.h - what this machine can do, and which kernel table is in use.
 */
#ifndef TY_MATH_CPU_H
#define TY_MATH_CPU_H

#include "common/base/err.h"

/* "AMD EPYC ...": the model name from CPUID; "unknown CPU" elsewhere. */
const char *ty_cpu_name(void);
/* Name of the table in use: "ref", "avx2", "avx512", "avx512vnni"...  Chosen once, at first use:
 * the best that the CPU runs, or the one that TYTO_CPU names.  A TYTO_CPU that this machine cannot
 * run, or that is no table, falls back to the best; ty_cpu_check says so before that. */
const char *ty_cpu_kernels(void);
/* What numbers depend on beside model and input: "int8 avx512vnni none 0.1.0": number type, kernels, BLAS,
 * version.  Two processes with the same text give the same bytes.  Valid until the next call; one thread. */
const char *ty_arithmetic(const char *compute);
/* TY_EINVAL when TYTO_CPU names a table that does not exist or does not run here, with the list of
 * those that do, or TYTO_BLAS asks for what is not there (blas.h).  Every main calls it after parsing
 * its options. */
ty_status ty_cpu_check(ty_err *err);

#endif
