/* How many cores there are to run on: what decides whether spinning can help. */
#ifndef MH_OS_CORES_H
#define MH_OS_CORES_H

/* Cores in this process's affinity mask, at least 1. Looked up once: an answer that has become stale costs time only. */
int mh__os_usable_cores(void);

/* Tell the core that this thread spins. */
static inline void mh__os_relax(void)
{
#if defined __x86_64__ || defined __i386__
    __builtin_ia32_pause();
#elif defined __aarch64__
    __asm__ volatile("yield" ::: "memory");
#endif
}

#endif
