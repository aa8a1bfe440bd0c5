/* An intrusive doubly linked list: the node lies inside its owner, so linking never allocates. */
#ifndef MH_BASE_LIST_H
#define MH_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

typedef struct mh__list {
    struct mh__list *next, *prev;
} mh__list;

#define mh__list_entry(node, type, member) ((type *)(void *)((char *)(node) - offsetof(type, member)))

static inline void mh__list_init(mh__list *head) { head->next = head->prev = head; }
static inline bool mh__list_is_empty(const mh__list *head) { return head->next == head; }

static inline void mh__list_push_back(mh__list *head, mh__list *node)
{
    node->prev = head->prev;
    node->next = head;
    head->prev->next = node;
    head->prev = node;
}

static inline void mh__list_push_front(mh__list *head, mh__list *node) { mh__list_push_back(head->next, node); }

/* Unlink node; removing an initialised node that is in no list does nothing. */
static inline void mh__list_remove(mh__list *node)
{
    node->next->prev = node->prev;
    node->prev->next = node->next;
    mh__list_init(node);
}

static inline mh__list *mh__list_pop_front(mh__list *head)
{
    if (mh__list_is_empty(head))
        return NULL;
    mh__list *node = head->next;
    mh__list_remove(node);
    return node;
}

#endif
