/* The one way by which the library takes and frees memory, so that tests can fail the n-th time. */
#ifndef MH_BASE_MEMORY_H
#define MH_BASE_MEMORY_H

#include "manyhands/base.h"

/* Each returns NULL after recording the detail when memory is short or count * size overflows. */
void *mh__alloc(size_t size) __attribute__((malloc));
void *mh__calloc(size_t count, size_t size) __attribute__((malloc));
/* Like realloc: on failure the old block stays valid. */
void *mh__realloc(void *old, size_t size);
void mh__free(void *block);
char *mh__strdup(const char *text);

#endif
