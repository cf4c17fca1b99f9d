/* txlog.c - no client learns of an effect before the shard's log has it.
 *
 * The engine knows one agent, on its unix socket (docs/engine-protocol.md). The agent reads the replication stream as
 * a replica does, and its REPLCONF ACK is the committed offset. Whatever may depend on bytes beyond that offset is
 * built aside, in the client's hold->blocks, and moves to the client's ordinary reply list when its offset commits;
 * so the code that writes to sockets, I/O threads included, knows nothing of holding.
 *
 * Offsets here are replication offsets. A *unit* is what the server propagates atomically: a command, a whole
 * MULTI..EXEC, a whole script, an expiry.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "server.h"
#include "cluster.h"
#include "cluster_legacy.h"
#include "fmtargs.h"
#include "hdr_histogram.h"
#include "module.h"

#include <sys/mman.h>
#include <time.h>

struct txlogState txlog;

int getKeysUsingKeySpecs(struct serverCommand *cmd, robj **argv, int argc, int search_flags, getKeysResult *result);
void rejectCommandSds(client *c, sds s, int notify_modules);
void clusterSetNodeAsPrimary(clusterNode *n);
void clusterPropagatePublish(robj *channel, robj *message, int sharded);

#define DIRTY_MASK ((1 << 20) - 1)
#define HOLD_OPEN LLONG_MAX     /* hold_off of what the running unit pushed: its end is not known yet. */
#define MARK_BYTES (64 * 1024)  /* The agent learns of a unit's end after each so many bytes. */
#define COMMITS 4096            /* Event loop iterations whose commit latency can be measured at once. */

static long long *dirty;   /* hash(key) -> end of the last unit that wrote it; 8 MiB, never cleared while leading. */
static long long wide_off; /* The same for writes that name no key (FLUSHALL, SWAPDB, FUNCTION LOAD...). */
static long long need;     /* Highest uncommitted offset that the running unit has observed. */
static int unit_wrote;     /* The running unit was propagated. */
static uint64_t loop_id;   /* Replies of one event loop iteration may share a block. */
static list *pushed;       /* Clients with HOLD_OPEN blocks. */

/* Waiting clients, ordered by the offset that their first block waits for: releasing costs O(log waiting) for each
 * client released, and nothing for the others. */
typedef struct {
    long long off;
    client *c;
} waiter;
static waiter *heap;
static int heap_len, heap_cap;

/* PUBLISH over the cluster bus, waiting like any reply; off never decreases along the list. */
typedef struct {
    long long off;
    robj *channel, *message;
    int sharded;
} busMessage;
static list *bus;
static listNode *bus_open; /* First message of the running unit. */

/* What the agent said. */
static client *control; /* Its control channel. */
static long long epoch, revoked, lease, lapsed_at, config_epoch;
static int writes = 1, reads, lapse_told;
static sds full_reason, reads_reason;
static unsigned char own_slots[CLUSTER_SLOTS / 8];
static long long *marks; /* Ends of units to tell the agent of. */
static int marks_len, marks_cap;
static long long last_mark, told;

/* Facts for INFO. */
static struct {
    long long held, released, pushes, bus, uncertain, lease_refused, limit_refused, full_refused, agent_only_refused;
    long long held_clients_peak, held_bytes_peak, uncommitted_peak;
} count;
static struct hdr_histogram *commit_latency; /* Microseconds from a unit's execution to its commit. */
static struct {
    long long off;
    monotime at;
    long long units;
} commits[COMMITS]; /* A ring. */
static int commits_first, commits_len;
static long long units_in_loop;

/* ------------------------------------------ which commands, which keys ------------------------------------------ */

/* Commands that read the dataset without the flag that says so, or more of it than the keys they name. */
static const char *reads_all[] = {"sort", "sort_ro", "function|list", "function|dump", "cluster|countkeysinslot",
                                  "cluster|getkeysinslot", "cluster|slot-stats", NULL};

static int oneOf(const char *name, const char **names) {
    for (; *names; names++)
        if (!strcasecmp(name, *names)) return 1;
    return 0;
}

static int isScript(struct serverCommand *cmd) {
    return cmd->proc == evalCommand || cmd->proc == evalShaCommand || cmd->proc == evalRoCommand ||
           cmd->proc == evalShaRoCommand || cmd->proc == fcallCommand || cmd->proc == fcallroCommand;
}

static int classify(struct serverCommand *cmd) {
    int class = TXLOG_KNOWN;
    if (cmd->flags & (CMD_READONLY | CMD_WRITE)) class |= TXLOG_READ | TXLOG_DATA;
    /* They show the arguments of writes; but for those who look what is wrong, a lease is not needed. */
    if (!strcasecmp(cmd->fullname, "slowlog|get") || !strcasecmp(cmd->fullname, "commandlog|get"))
        class |= TXLOG_READ | TXLOG_ALL;
    if (oneOf(cmd->fullname, reads_all)) class |= TXLOG_READ | TXLOG_ALL | TXLOG_DATA;
    if (isScript(cmd)) class |= TXLOG_WIDE;
    if (isScript(cmd) || cmd->proc == execCommand || cmd->flags & CMD_MODULE) class |= TXLOG_HOLD | TXLOG_DATA;
    if (cmd->flags & (CMD_WRITE | CMD_MAY_REPLICATE)) class |= TXLOG_HOLD;
    return cmd->txlog_class = class;
}

static inline int classOf(struct serverCommand *cmd) {
    return cmd->txlog_class ? cmd->txlog_class : classify(cmd);
}

static inline long long dirtyKey(robj *o, long long stamp) {
    if (!sdsEncodedObject(o)) return 0;
    sds key = objectGetVal(o);
    /* The database is left out, so that COPY and MOVE need no special case. Collisions only delay. */
    long long *e = &dirty[hashtableGenHashFunction(key, sdslen(key)) & DIRTY_MASK];
    if (stamp) *e = stamp;
    return *e;
}

/* The last write's end over the keys that a command names; or, with 'stamp', mark them as written by the unit that
 * ends there. -1 if it names none. */
static long long dirtyKeys(struct serverCommand *cmd, robj **argv, int argc, long long stamp) {
    keySpec *ks = cmd->key_specs;
    if (cmd->key_specs_num == 1 && ks->begin_search_type == KSPEC_BS_INDEX && ks->find_keys_type == KSPEC_FK_RANGE &&
        ks->fk.range.lastkey == 0 && ks->bs.index.pos < argc && !(ks->flags & (CMD_KEY_NOT_KEY | CMD_KEY_INCOMPLETE)))
        return dirtyKey(argv[ks->bs.index.pos], stamp); /* Most commands: exactly one key. */
    long long max = 0;
    getKeysResult r;
    initGetKeysResult(&r);
    /* Key specs first: a getkeys_proc may not cope with an argv that was rewritten for propagation. */
    int n = getKeysUsingKeySpecs(cmd, argv, argc, GET_KEYSPEC_DEFAULT, &r);
    if (n < 0 || (n == 0 && (cmd->getkeys_proc || cmd->flags & CMD_MODULE_GETKEYS))) {
        getKeysFreeResult(&r);
        initGetKeysResult(&r);
        n = getKeysFromCommand(cmd, argv, argc, &r);
    }
    for (int i = 0; i < n; i++) max = max(max, dirtyKey(argv[r.keys[i].pos], stamp));
    getKeysFreeResult(&r);
    return n > 0 ? max : -1;
}

/* The unit has been fed to the stream; its last byte is the current offset. */
void txlogMarkDirty(serverOpArray *oa) {
    if (!txlogLeads()) return;
    for (int j = 0; j < oa->numops; j++) {
        serverOp *op = &oa->ops[j];
        if (!(op->target & PROPAGATE_REPL)) continue;
        unit_wrote = txlog.unit_open = 1;
        struct serverCommand *cmd = lookupCommandOrOriginal(op->argv, op->argc);
        if (cmd && cmd->flags & CMD_PUBSUB) continue;
        if (!cmd || dirtyKeys(cmd, op->argv, op->argc, server.primary_repl_offset) == -1)
            wide_off = server.primary_repl_offset;
    }
}

/* ------------------------------------------------ waiting clients ------------------------------------------------ */

static void heapPut(int i, waiter w) {
    heap[i] = w;
    w.c->hold->heap = i;
}

static void heapFix(int i) {
    waiter w = heap[i];
    while (i > 0 && heap[(i - 1) / 2].off > w.off) {
        heapPut(i, heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    for (int child; (child = 2 * i + 1) < heap_len; i = child) {
        if (child + 1 < heap_len && heap[child + 1].off < heap[child].off) child++;
        if (heap[child].off >= w.off) break;
        heapPut(i, heap[child]);
    }
    heapPut(i, w);
}

static void heapRemove(client *c) {
    int i = c->hold->heap;
    if (i < 0) return;
    c->hold->heap = -1;
    if (i == --heap_len) return;
    heapPut(i, heap[heap_len]);
    heapFix(i);
}

static clientReplyBlock *blockOf(listNode *ln) {
    return listNodeValue(ln);
}

/* Bring the client's place among the waiting up to date with its first block. */
static void heapUpdate(client *c) {
    txlogHold *h = c->hold;
    listNode *first = listFirst(h->blocks);
    if (!first || blockOf(first)->hold_off == HOLD_OPEN || h->open) {
        heapRemove(c);
        return;
    }
    if (h->heap < 0) {
        if (heap_len == heap_cap) {
            heap_cap = heap_cap ? heap_cap * 2 : 1024;
            heap = zrealloc(heap, sizeof(*heap) * heap_cap);
        }
        heapPut(heap_len++, (waiter){blockOf(first)->hold_off, c});
        count.held_clients_peak = max(count.held_clients_peak, heap_len);
    } else if (heap[h->heap].off == blockOf(first)->hold_off) {
        return;
    }
    heap[h->heap].off = blockOf(first)->hold_off;
    heapFix(h->heap);
}

static void holdBegin(client *c) {
    txlogHold *h = c->hold;
    if (h == NULL) {
        h = c->hold = zcalloc(sizeof(*h));
        h->blocks = listCreate();
        listSetFreeMethod(h->blocks, freeClientReplyValue);
        h->heap = -1;
    }
    h->mark = listLast(h->blocks);
    h->floor = h->mark ? blockOf(h->mark)->hold_off : 0;
    if (h->mark && h->loop != loop_id) {
        /* Close the last block: what an earlier iteration replied must not wait for what this one replies. */
        blockOf(h->mark)->flag.closed = 1;
    } else if (h->mark) {
        h->mark = listPrevNode(h->mark); /* Shared with what comes: it will wait for that too. */
    }
    h->loop = loop_id;
    h->open = true;
    c->flag.hold_reply = 1;
}

/* Move to the reply list what has committed. */
static void holdRelease(client *c) {
    txlogHold *h = c->hold;
    listNode *ln;
    int moved = 0;
    if (!h->open) {
        while ((ln = listFirst(h->blocks)) && blockOf(ln)->hold_off <= txlog.committed) {
            listUnlinkNode(h->blocks, ln);
            listLinkNodeTail(c->reply, ln);
            moved = 1;
        }
        if (listLength(h->blocks) == 0) c->flag.hold_reply = 0;
    }
    heapUpdate(c);
    if (moved) putClientInPendingWriteQueue(c);
    count.released += moved;
}

/* What was appended since holdBegin() waits for 'off'. */
static void holdEnd(client *c, long long off) {
    txlogHold *h = c->hold;
    h->open = false;
    listNode *ln = h->mark ? listNextNode(h->mark) : listFirst(h->blocks);
    off = max(off, h->floor);
    for (; ln; ln = listNextNode(ln)) blockOf(ln)->hold_off = off;
    h->mark = NULL;
    listNode *first = listFirst(h->blocks);
    if (!first || blockOf(first)->hold_off <= txlog.committed) {
        holdRelease(c);
    } else {
        count.held++;
        heapUpdate(c);
    }
}

/* What this client's next message may not overtake. */
static long long ownTail(client *c) {
    listNode *ln = c->hold ? listLast(c->hold->blocks) : NULL;
    long long off = ln && listNodeValue(ln) && blockOf(ln)->hold_off != HOLD_OPEN ? blockOf(ln)->hold_off : 0;
    return max(off, c->woff);
}

void txlogFreeClient(client *c) {
    if (c == control) control = NULL;
    if (txlog.late == c) txlog.late = NULL;
    if (txlog.checked == c) txlog.checked = NULL;
    if (!c->hold) return;
    heapRemove(c);
    if (c->hold->pushed) {
        listNode *ln = listSearchKey(pushed, c);
        if (ln) listDelNode(pushed, ln);
    }
    listRelease(c->hold->blocks);
    zfree(c->hold);
    c->hold = NULL;
}

/* The client has shut down its sending side: it still gets what it waits for, then it is closed. */
int txlogKeepClosing(client *c) {
    if (!c->flag.hold_reply || c->flag.blocked || c->flag.close_asap) return 0;
    connSetReadHandler(c->conn, NULL);
    c->flag.close_after_reply = 1;
    return 1;
}

/* -------------------------------------------- around a command's run -------------------------------------------- */

int txlogBeforeCallSlow(client *c) {
    struct serverCommand *cmd = c->cmd;
    int class = classOf(cmd);
    int top = server.execution_nesting == 0;
    if (top) need = 0;
    if (txlog.committed < server.primary_repl_offset) {
        if (class & TXLOG_WIDE && wide_off > txlog.committed) need = max(need, wide_off);
        if (class & TXLOG_READ) {
            long long off = class & TXLOG_ALL ? -1 : dirtyKeys(cmd, c->argv, c->argc, 0);
            if (off == -1) off = server.primary_repl_offset; /* KEYS, SCAN, DBSIZE, RANDOMKEY... */
            off = max(off, wide_off);
            if (off > txlog.committed && off > need) need = off;
        } else if (cmd->proc == execCommand && c->flag.multi && (c->flag.dirty_cas || isWatchedKeyExpired(c))) {
            need = server.primary_repl_offset; /* The nil of an aborted WATCH tells of somebody's write. */
        }
    }
    if (!top || !c->conn || c->flag.replica || c->flag.primary || c->slot_migration_job) return 0;
    if (!(c->flag.hold_reply || need || class & TXLOG_HOLD)) return 0;
    if (c->flag.fake) return 0;
    holdBegin(c);
    return 1;
}

void txlogAfterCall(client *c, long long old_off) {
    txlog.late = NULL;
    holdEnd(c, server.primary_repl_offset != old_off ? server.primary_repl_offset : need);
    need = 0;
}

/* The running command is about to delete a key because its time has come. Commands look keys up before they reply of
 * them, so holding from here on covers it; what was replied before comes from keys that nobody waits for. */
void txlogLateHold(void) {
    if (!txlogLeads()) return;
    client *c = server.current_client;
    if (!c || c != server.executing_client || !c->conn || c->flag.fake || c->flag.replica || c->flag.primary ||
        c->flag.hold_reply || server.execution_nesting == 0)
        return;
    holdBegin(c);
    txlog.late = c;
    /* A length still to be filled in must stand in the list that its elements go to. */
    for (listNode *ln = listFirst(c->reply), *next; ln; ln = next) {
        next = listNextNode(ln);
        if (listNodeValue(ln) && listLength(c->hold->blocks) == 0) continue;
        listUnlinkNode(c->reply, ln);
        listLinkNodeTail(c->hold->blocks, ln);
        if (listNodeValue(ln)) blockOf(ln)->hold_off = 0;
    }
}

/* Replies that are made outside of call(), or by one whose unit goes on after it: of clients that were blocked. */
int txlogBeginAsync(client *c) {
    if (!txlogLeads() || !c || !c->conn || c->flag.fake || (c->hold && c->hold->open)) return 0;
    if (!server.execution_nesting) need = 0;
    holdBegin(c);
    return 1;
}

void txlogEndAsync(client *c) {
    if (!server.execution_nesting) need = 0;
    if (c->hold && c->hold->open) holdEnd(c, server.primary_repl_offset);
}

/* ----------------------------------------- messages to other clients ----------------------------------------- */

/* The unit being run is a PUBLISH and nothing else, it will not be propagated, and its author waits for nothing. */
static int freePublish(void) {
    client *c = server.current_client;
    return server.cluster_enabled && c && c == server.executing_client && server.execution_nesting == 1 &&
           c->cmd->flags & CMD_PUBSUB && need == 0 && ownTail(c) <= txlog.committed;
}

/* A message for 'c', be it of pub/sub, a keyspace event or an invalidation: 'end' is 0 before and 1 after it. Within
 * a unit it waits for the unit's end; after it, for the current offset. */
void txlogPush(client *c, int end) {
    static client *open; /* The client whose bracket this message has opened. */
    if (!end) {
        if (!txlogLeads() || !c->conn || c->flag.close_asap) return;
        /* While its own command runs, that command's bracket covers it; before, it is a client like any other. */
        if (c == server.current_client && server.executing_client) return;
        if (c->hold && c->hold->open) return; /* It waits with the reply that is being built. */
        if ((server.execution_nesting == 0 || freePublish()) && !c->flag.hold_reply &&
            txlog.committed >= server.primary_repl_offset)
            return;
        open = c;
        holdBegin(c);
        return;
    }
    if (open != c) return;
    open = NULL;
    count.pushes++;
    if (!server.execution_nesting) {
        holdEnd(c, server.primary_repl_offset);
        return;
    }
    if (!c->hold->pushed) c->hold->pushed_floor = c->hold->floor; /* It may share a block with replies of its own. */
    holdEnd(c, HOLD_OPEN);
    if (!c->hold->pushed) {
        c->hold->pushed = true;
        txlog.unit_open = 1;
        listAddNodeTail(pushed, c);
    }
}

static void freeBusMessage(void *value) {
    busMessage *m = value;
    decrRefCount(m->channel);
    decrRefCount(m->message);
    zfree(m);
}

static robj *copyOf(robj *o) {
    o = getDecodedObject(o);
    robj *copy = createRawStringObject(objectGetVal(o), sdslen(objectGetVal(o)));
    decrRefCount(o);
    return copy;
}

/* A message for the cluster bus. Returns 1 if it was taken, to be sent when it may be. */
int txlogHoldPublish(robj *channel, robj *message, int sharded) {
    if (!txlogLeads()) return 0;
    if (listLength(bus) == 0 && freePublish()) return 0;
    busMessage *m = zmalloc(sizeof(*m));
    *m = (busMessage){HOLD_OPEN, copyOf(channel), copyOf(message), sharded};
    listAddNodeTail(bus, m);
    if (!bus_open) bus_open = listLast(bus);
    txlog.unit_open = 1;
    if (!server.execution_nesting) txlogUnitEndSlow();
    return 1;
}

static busMessage *busOf(listNode *ln) {
    return listNodeValue(ln);
}

static void busRelease(void) {
    listNode *ln;
    while ((ln = listFirst(bus)) && busOf(ln)->off <= txlog.committed) {
        busMessage *m = busOf(ln);
        clusterPropagatePublish(m->channel, m->message, m->sharded);
        listDelNode(bus, ln);
    }
}

static void addMark(void) {
    if (marks_len == marks_cap) {
        marks_cap = marks_cap ? marks_cap * 2 : 64;
        marks = zrealloc(marks, sizeof(*marks) * marks_cap);
    }
    marks[marks_len++] = last_mark = server.primary_repl_offset;
}

/* The outermost execution unit is over and its bytes, if any, are in the stream: now its messages know what they
 * wait for. What its author still waits for counts too: a message may tell of it. */
void txlogUnitEndSlow(void) {
    if (!txlogLeads()) return;
    if (unit_wrote) {
        units_in_loop++;
        if (control && server.primary_repl_offset - last_mark >= MARK_BYTES) addMark();
    }
    if (listLength(pushed) || bus_open) {
        client *author = server.current_client;
        long long off = unit_wrote ? server.primary_repl_offset : need;
        if (author && author->conn) off = max(off, ownTail(author));
        listNode *ln;
        while ((ln = listFirst(pushed))) {
            client *c = listNodeValue(ln);
            listDelNode(pushed, ln);
            c->hold->pushed = false;
            listNode *first = NULL;
            for (ln = listLast(c->hold->blocks); ln && blockOf(ln)->hold_off == HOLD_OPEN; ln = listPrevNode(ln))
                first = ln;
            long long after = max(off, c->hold->pushed_floor);
            for (ln = first; ln; ln = listNextNode(ln)) blockOf(ln)->hold_off = after;
            holdRelease(c);
        }
        if (bus_open) {
            ln = listPrevNode(bus_open);
            off = max(off, ln ? busOf(ln)->off : 0);
            for (ln = bus_open; ln; ln = listNextNode(ln)) {
                busOf(ln)->off = off;
                count.bus += off > txlog.committed;
            }
            bus_open = NULL;
            busRelease();
        }
    }
    unit_wrote = txlog.unit_open = 0;
}

/* ------------------------------------------------ lease and limits ------------------------------------------------ */

/* Microseconds of CLOCK_BOOTTIME, which goes on while the machine sleeps. */
static long long boottime(void) {
    struct timespec ts;
    clock_gettime(CLOCK_BOOTTIME, &ts);
    return ts.tv_sec * 1000000LL + ts.tv_nsec / 1000;
}

static int hasLease(void) {
    return lease && boottime() < lease;
}

static long long uncommitted(void) {
    return server.primary_repl_offset - txlog.committed;
}

#define LAPSED_ERROR                                                                                   \
    "-CLUSTERDOWN The lease of this primary has lapsed: it serves nothing until the log confirms that " \
    "it still leads"
#define FULL_ERROR "-TXLOGFULL %s"
#define LIMIT_ERROR "-TRYAGAIN The log is behind by more than %lld bytes; try again when it has caught up"

/* Why a write can't be taken now, as an error without its newline; NULL if it can. */
static sds denyWrite(void) {
    if (!writes) {
        count.full_refused++;
        return sdscatprintf(sdsempty(), FULL_ERROR, full_reason ? full_reason : "The log is full");
    }
    if (uncommitted() > txlog.uncommitted_limit) {
        count.limit_refused++;
        return sdscatprintf(sdsempty(), LIMIT_ERROR, txlog.uncommitted_limit);
    }
    return NULL;
}

/* The same for a write from within a script or a module; the error is an object of its own. */
robj *txlogDenyWrite(void) {
    if (!txlog.logged || !txlogLeads()) return NULL;
    sds err = denyWrite();
    return err ? createObject(OBJ_STRING, sdscat(err, "\r\n")) : NULL;
}

int txlogRejectSlow(client *c, int is_write) {
    sds err = NULL;
    if (!(classOf(c->cmd) & TXLOG_DATA) || mustObeyClient(c)) return 0;
    txlog.checked = NULL;
    if (txlogLeads()) {
        if (!hasLease()) {
            count.lease_refused++;
            err = sdsnew(LAPSED_ERROR);
        } else if (!is_write || !(err = denyWrite())) {
            txlog.checked = c;
            txlog.checked_reads = server.stat_total_reads_processed;
        }
    } else if (!reads) {
        err = sdscatprintf(sdsempty(), "-LOADING %s", reads_reason ? reads_reason : "The log is being read");
    } else if (server.cluster_enabled && clusterNodeIsPrimary(getMyClusterNode()) && (is_write || !c->flag.readonly)) {
        /* The cluster view is older than the truth: we follow, and nobody has told yet whom. */
        err = sdsnew("-CLUSTERDOWN This shard has no primary that this node knows of");
    }
    if (!err) return 0;
    rejectCommandSds(c, err, 1);
    return 1;
}

/* Clients that are blocked on keys can't be served without a lease: send them away. */
static void dismissBlocked(void) {
    listIter li;
    listNode *ln;
    listRewind(server.clients, &li);
    while ((ln = listNext(&li))) {
        client *c = listNodeValue(ln);
        if (!c->flag.blocked || c->flag.primary || c->flag.replica) continue;
        int type = c->bstate->btype;
        if (type == BLOCKED_LIST || type == BLOCKED_ZSET || type == BLOCKED_STREAM ||
            (type == BLOCKED_MODULE && moduleClientIsBlockedOnKeys(c)))
            unblockClientOnError(c, LAPSED_ERROR);
    }
}

/* The log has not confirmed in time. Nobody knows whether it will, so say that, and nothing after it. */
static void giveUpWaiting(void) {
    static const char error[] =
        "-UNCERTAIN The log has not confirmed this write in time: it may or may not be applied\r\n";
    while (heap_len) {
        client *c = heap[0].c;
        heapRemove(c);
        if (c->hold->open) continue; /* In a script that has let us in; back when it ends. */
        for (listNode *ln = listFirst(c->hold->blocks); ln; ln = listNextNode(ln)) c->reply_bytes -= blockOf(ln)->size;
        listEmpty(c->hold->blocks);
        c->flag.hold_reply = 0;
        c->flag.close_after_reply = 0;
        c->flag.pushing = 1; /* Past CLIENT REPLY OFF. */
        addReplyProto(c, error, sizeof(error) - 1);
        c->flag.pushing = 0;
        c->flag.close_after_reply = 1;
        count.uncertain++;
    }
}

static void watchLease(void) {
    long long now = boottime();
    int leased = lease && now < lease;
    if (leased) {
        lapsed_at = 0;
        lapse_told = 0;
    } else if (epoch) {
        if (!lapsed_at) lapsed_at = lease ? lease : now;
        if (!lapse_told) dismissBlocked();
        lapse_told = 1;
        if (heap_len && now - lapsed_at > txlog.hold_timeout * 1000) giveUpWaiting();
    }
    txlog.paused = !leased || !writes ? TXLOG_PAUSED : uncommitted() > txlog.uncommitted_limit ? TXLOG_BEHIND : 0;
}

/* -------------------------------------------------- committing -------------------------------------------------- */

static void commit(long long off) {
    off = min(off, server.primary_repl_offset);
    if (off > txlog.committed) txlog.committed = off;
}

static void measureCommits(void) {
    monotime now = getMonotonicUs();
    long long slowest = 0;
    while (commits_len && commits[commits_first].off <= txlog.committed) {
        long long us = now - commits[commits_first].at;
        slowest = max(slowest, us);
        hdr_record_values(commit_latency, max(us, 1), commits[commits_first].units);
        commits_first = (commits_first + 1) % COMMITS;
        commits_len--;
    }
    if (slowest) latencyAddSampleIfNeeded("txlog-commit", slowest);
}

static void noteUnits(void) {
    if (!units_in_loop) return;
    int i = (commits_first + commits_len) % COMMITS;
    if (commits_len == COMMITS) {
        i = (i + COMMITS - 1) % COMMITS; /* Full: the newest entry speaks for these too. */
        commits[i].units += units_in_loop;
    } else {
        commits[i].at = getMonotonicUs();
        commits[i].units = units_in_loop;
        commits_len++;
    }
    commits[i].off = server.primary_repl_offset;
    units_in_loop = 0;
    count.uncommitted_peak = max(count.uncommitted_peak, uncommitted());
}

/* Tell the agent where units end, so that it can cut records there without parsing the stream. */
static void tellUnits(void) {
    if (!control || control->flag.close_asap || told == server.primary_repl_offset) return;
    if (marks_len == 0 || marks[marks_len - 1] != server.primary_repl_offset) addMark();
    control->flag.pushing = 1;
    addReplyPushLen(control, 1 + marks_len);
    addReplyBulkCString(control, "txlog-units");
    for (int i = 0; i < marks_len; i++) addReplyLongLong(control, marks[i]);
    control->flag.pushing = 0;
    marks_len = 0;
    told = last_mark = server.primary_repl_offset;
}

void txlogBeforeSleep(void) {
    if (!txlog.enabled) return;
    loop_id++;
    txlog.checked = NULL;
    if (server.primary_host) {
        txlog.paused = 0;
        return;
    }
    if (txlog.autoack) {
        if (!server.repl_backlog && iAmPrimary()) { /* As for a first replica: what came before is not in it. */
            changeReplicationId();
            clearReplicationId2();
            createReplicationBacklog();
        }
        if (!txlog.autoack_delay) commit(server.primary_repl_offset);
    } else {
        tellUnits();
        watchLease();
    }
    noteUnits();
    if (commits_len && commits[commits_first].off <= txlog.committed) measureCommits();
    while (heap_len && heap[0].off <= txlog.committed) holdRelease(heap[0].c);
    if (listLength(bus)) busRelease();
}

/* Tests: commit what the call before this one saw. */
static long long autoack(struct aeEventLoop *el, long long id, void *data) {
    static long long seen;
    UNUSED(el);
    UNUSED(id);
    UNUSED(data);
    if (txlogLeads()) commit(seen);
    seen = server.primary_repl_offset;
    return txlog.autoack_delay;
}

int txlogKeepsBacklog(long long end) {
    return txlog.logged && txlogLeads() && end > txlog.committed;
}

/* ----------------------------------------------------- roles ----------------------------------------------------- */

/* Promotion: a follower has applied committed bytes only. Demotion happens in tests alone (a demoted engine exits):
 * the outcome of what is held is unknown, so those clients are dropped and nothing is released. */
void txlogRoleChange(int primary) {
    if (!txlog.enabled) return;
    if (primary) {
        txlog.committed = told = last_mark = server.primary_repl_offset;
        memset(dirty, 0, sizeof(*dirty) * (DIRTY_MASK + 1));
        wide_off = need = 0;
        commits_len = 0;
        return;
    }
    while (heap_len) {
        client *c = heap[0].c;
        heapRemove(c);
        freeClientAsync(c);
    }
    listEmpty(bus);
    bus_open = NULL;
}

/* Whom we replicate from is the agent's business; the cluster view only spreads news. */
int txlogAllowSetPrimary(bool disconnect_blocked) {
    if (!txlog.logged || txlog.promoting) return 1;
    if (disconnect_blocked && server.primary_host) disconnectOrRedirectAllBlockedClients();
    return 0;
}

int txlogAllowUnsetPrimary(void) {
    return !txlog.logged || txlog.promoting;
}

/* While the lease holds, no other primary can exist: whoever claims our slots is wrong or early. */
int txlogKeepsSlots(void) {
    return txlog.logged && txlogLeads() && hasLease();
}

/* Make the cluster view say what the log says: we own our slots. */
static void assertView(void) {
    if (!server.cluster_enabled) return;
    clusterNode *me = getMyClusterNode();
    if (!clusterNodeIsPrimary(me)) clusterSetNodeAsPrimary(me);
    for (int j = 0; j < CLUSTER_SLOTS; j++) {
        int own = own_slots[j / 8] & (1 << (j & 7));
        clusterNode *owner = server.cluster->slots[j];
        if (own ? owner == me : owner != me) continue;
        if (owner) clusterDelSlot(j);
        if (own) clusterAddSlot(me, j);
    }
    me->configEpoch = config_epoch;
    server.cluster->currentEpoch = max(server.cluster->currentEpoch, (uint64_t)config_epoch);
    clusterUpdateState();
    clusterDoBeforeSleep(CLUSTER_TODO_SAVE_CONFIG | CLUSTER_TODO_UPDATE_STATE | CLUSTER_TODO_BROADCAST_ALL);
}

/* Every engine boots as an empty follower of its agent, whatever nodes.conf says of it. */
void txlogBoot(void) {
    if (!txlog.enabled) return;
    txlogRoleChange(1); /* Bytes loaded from disk, in tests, are committed. */
    if (txlog.autoack_delay) aeCreateTimeEvent(server.el, txlog.autoack_delay, autoack, NULL, NULL);
    if (!txlog.logged) return;
    if (!txlog.follow_port) {
        serverLog(LL_WARNING, "FATAL: txlog-enabled needs txlog-follow-port, the port of the agent");
        exit(1);
    }
    txlog.promoting = 1;
    replicationSetPrimary("127.0.0.1", txlog.follow_port, 1, false); /* Nothing of ours to continue from. */
    txlog.promoting = 0;
}

/* ---------------------------------------------- the agent's commands ---------------------------------------------- */

int txlogIsAgent(client *c) {
    return c->flag.unix_socket && c->user && !strcmp(c->user->name, txlog.agent_user);
}

/* Other clients can't close the agent's connections: each time, it would be a failover. */
int txlogSparesClient(client *c, client *by) {
    return txlog.logged && (txlogIsAgent(c) || c->flag.primary) && !(by && txlogIsAgent(by));
}

/* Commands that could take the engine away from its agent, or lead around the holding of replies. */
static const char *agent_only[] = {
    "psync", "sync", "replconf", "replicaof", "slaveof", "failover", "shutdown", "debug", "monitor", "save", "bgsave",
    "bgrewriteaof", "migrate", "module|load", "module|loadex", "module|unload", "script|debug", "config|set", "config|get",
    "acl|setuser", "acl|deluser", "acl|load", "acl|save", "cluster|addslots", "cluster|addslotsrange",
    "cluster|bumpepoch", "cluster|delslots", "cluster|delslotsrange", "cluster|failover", "cluster|flushslots",
    "cluster|forget", "cluster|meet", "cluster|replicate", "cluster|reset", "cluster|saveconfig",
    "cluster|set-config-epoch", "cluster|setslot", "cluster|migrateslots", "cluster|cancelslotmigrations",
    "cluster|syncslots", NULL};

/* Parameters that durability stands on, by the beginnings of their names. */
static const char *agent_only_params[] = {
    "txlog-", "repl", "slave", "primary", "master", "cluster-", "append", "aof-", "auto-aof", "no-append", "save", "rdb",
    "dir", "dbfilename", "client-output-buffer-limit", "min-replicas", "min-slaves", "import-mode", "bind", "port",
    "tls-", "unixsocket", "busy-reply-threshold", "lua-time-limit", "auto-failover", "dual-channel", "aclfile",
    "hash-seed", "maxclients", "close-on", "shutdown-", NULL};

typedef struct {
    struct serverCommand *cmd;
    serverCommandProc *proc;
} guarded;
static guarded *guards;
static int guards_len;

static serverCommandProc *procOf(struct serverCommand *cmd) {
    for (int i = 0; i < guards_len; i++)
        if (guards[i].cmd == cmd) return guards[i].proc;
    return NULL;
}

/* +CONTINUE or an error: an agent never gets, and never needs, a full synchronization of uncommitted data. */
static void agentStream(client *c, serverCommandProc *proc) {
    long long from;
    if (!txlogLeads() || !c->flag.txlog_agent) {
        addReplyError(c, "This engine does not lead in the epoch that REPLCONF txlog-agent named");
        return;
    }
    if (strcasecmp(objectGetVal(c->argv[0]), "psync") || c->argc != 3 ||
        getLongLongFromObject(c->argv[2], &from) != C_OK) {
        addReplyError(c, "Only PSYNC <replid> <offset> is answered");
        return;
    }
    char *id = objectGetVal(c->argv[1]);
    replBacklog *b = server.repl_backlog;
    if ((strcasecmp(id, server.replid) && (strcasecmp(id, server.replid2) || from > server.second_replid_offset)) ||
        !b || from < b->offset || from > b->offset + b->histlen) {
        addReplyErrorFormat(c, "-NOCONTINUE Can't continue %s from %lld: the stream %s holds %lld to %lld", id, from,
                            server.replid, b ? b->offset : 0, b ? b->offset + b->histlen : 0);
        return;
    }
    listIter li;
    listNode *ln;
    listRewind(server.replicas, &li);
    while ((ln = listNext(&li))) {
        client *older = listNodeValue(ln);
        if (older->flag.txlog_agent) freeClientAsync(older);
    }
    proc(c);
}

static void agentReplconf(client *c, serverCommandProc *proc) {
    long long of;
    if (!strcasecmp(objectGetVal(c->argv[1]), "txlog-agent")) {
        if (c->argc != 3 || getLongLongFromObject(c->argv[2], &of) != C_OK || !txlogLeads() || of != epoch) {
            addReplyErrorFormat(c, "This engine leads in epoch %lld", txlogLeads() ? epoch : 0);
            return;
        }
        c->flag.txlog_agent = 1;
        addReply(c, shared.ok);
        return;
    }
    proc(c);
    if (c->flag.replica && c->flag.txlog_agent && c->repl_data && txlogLeads()) {
        commit(c->repl_data->repl_ack_off);
        c->repl_data->repl_aof_off = c->repl_data->repl_ack_off; /* The log is on disk: WAITAOF may count it. */
    }
}

static void agentOnly(client *c) {
    struct serverCommand *cmd = c->cmd;
    serverCommandProc *proc = procOf(cmd);
    int allowed = txlogIsAgent(c);
    if (!strcasecmp(cmd->fullname, "monitor")) allowed |= txlog.allow_monitor;
    if (!strcasecmp(cmd->fullname, "config|set")) {
        allowed = 1;
        for (int j = 2; j < c->argc; j += 2)
            for (const char **p = agent_only_params; *p; p++)
                if (!strncasecmp(objectGetVal(c->argv[j]), *p, strlen(*p))) allowed = txlogIsAgent(c);
    }
    if (!strcasecmp(cmd->fullname, "config|get") && !allowed) {
        sds secret = server.primary_auth; /* The agent's password is not for them. */
        server.primary_auth = NULL;
        proc(c);
        server.primary_auth = secret;
        return;
    }
    if (!strcasecmp(cmd->fullname, "acl|setuser") || !strcasecmp(cmd->fullname, "acl|deluser")) {
        allowed = 1;
        for (int j = 2; j < c->argc; j++)
            if (!strcmp(objectGetVal(c->argv[j]), txlog.agent_user)) allowed = txlogIsAgent(c);
    }
    if (!allowed) {
        count.agent_only_refused++;
        addReplyErrorFormat(c, "-NOPERM '%s' is reserved to the agent of this engine", cmd->fullname);
    } else if (proc == syncCommand) {
        agentStream(c, proc);
    } else if (proc == replconfCommand) {
        agentReplconf(c, proc);
    } else {
        proc(c);
    }
}

/* By procedure and not by a check on every command: this way scripts, MULTI and modules meet it too, and all other
 * commands pay nothing. */
static void guard(void) {
    guards = zcalloc(sizeof(agent_only));
    for (const char **name = agent_only; *name; name++) {
        sds copy = sdsnew(*name);
        struct serverCommand *cmd = lookupCommandBySdsLogic(server.orig_commands, copy);
        sdsfree(copy);
        if (!cmd) continue;
        guards[guards_len++] = (guarded){cmd, cmd->proc};
        cmd->proc = agentOnly;
    }
}

static long long heldBytes(void) {
    long long sum = 0;
    for (int i = 0; i < heap_len; i++)
        for (listNode *ln = listFirst(heap[i].c->hold->blocks); ln; ln = listNextNode(ln)) sum += blockOf(ln)->used;
    count.held_bytes_peak = max(count.held_bytes_peak, sum);
    return sum;
}

static const char *linkState(void) {
    if (server.loading || server.repl_state == REPL_STATE_TRANSFER) return "syncing";
    return server.repl_state == REPL_STATE_CONNECTED ? "up" : "down";
}

static void addInt(client *c, const char *name, long long value) {
    addReplyBulkCString(c, name);
    addReplyLongLong(c, value);
}

static void addText(client *c, const char *name, const char *value) {
    addReplyBulkCString(c, name);
    addReplyBulkCString(c, value);
}

static void addStatus(client *c) {
    int leads = txlogLeads();
    addReplyMapLen(c, 16);
    addInt(c, "version", VALKEY_VERSION_NUM);
    addText(c, "run-id", server.runid);
    addInt(c, "pid", getpid());
    addText(c, "role", leads ? "leader" : "follower");
    addInt(c, "epoch", epoch);
    addInt(c, "revoked", revoked);
    addInt(c, "offset", server.primary_repl_offset);
    addText(c, "replid", server.replid);
    addInt(c, "committed", leads ? txlog.committed : server.primary_repl_offset);
    addInt(c, "lease", lease);
    addInt(c, "held-clients", heap_len);
    addInt(c, "held-bytes", heldBytes());
    addInt(c, "uncommitted-bytes", leads ? uncommitted() : 0);
    addReplyBulkCString(c, "writes");
    addReplyBool(c, writes);
    addReplyBulkCString(c, "reads");
    addReplyBool(c, leads || reads);
    addText(c, "link", leads ? "none" : linkState());
}

static int integerArg(client *c, int j, long long *value) {
    return getLongLongFromObjectOrReply(c, c->argv[j], value, NULL) == C_OK;
}

static void attach(client *c) {
    if (c->resp < 3) {
        addReplyError(c, "The control channel speaks RESP3: HELLO 3 first");
        return;
    }
    if (control && control != c) freeClientAsync(control);
    control = c;
    c->flag.txlog_agent = c->flag.no_evict = 1;
    marks_len = 0;
    told = -1; /* So that the next iteration tells where the stream stands. */
    last_mark = server.primary_repl_offset;
    addStatus(c);
}

static void promote(client *c) {
    long long of, offset, view, first, last;
    unsigned char slots[CLUSTER_SLOTS / 8] = {0};
    if (c->argc < 5 || c->argc % 2 == 0) {
        addReplyErrorArity(c);
        return;
    }
    if (!integerArg(c, 2, &of) || !integerArg(c, 3, &offset) || !integerArg(c, 4, &view)) return;
    for (int j = 5; j < c->argc; j += 2) {
        if (!integerArg(c, j, &first) || !integerArg(c, j + 1, &last)) return;
        if (first < 0 || last < first || last >= CLUSTER_SLOTS) {
            addReplyErrorFormat(c, "Invalid slot range %lld to %lld", first, last);
            return;
        }
        for (; first <= last; first++) slots[first / 8] |= 1 << (first & 7);
    }
    if (txlogLeads()) {
        addReplyErrorFormat(c, "This engine leads already, in epoch %lld", epoch);
    } else if (of <= 0 || of <= revoked) {
        addReplyErrorFormat(c, "Epoch %lld is revoked: the highest revoked one is %lld", of, revoked);
    } else if (server.loading || !strcmp(linkState(), "syncing")) {
        addReplyError(c, "This engine is still loading");
    } else if (offset != server.primary_repl_offset) {
        addReplyErrorFormat(c, "This engine has applied offset %lld, not %lld", server.primary_repl_offset, offset);
    } else {
        txlog.promoting = 1;
        replicationUnsetPrimary();
        txlog.promoting = 0;
        if (!server.repl_backlog) createReplicationBacklog();
        epoch = of;
        lease = lapsed_at = 0;
        config_epoch = view;
        memcpy(own_slots, slots, sizeof(slots));
        assertView();
        serverLog(LL_NOTICE, "Leading in epoch %lld from offset %lld, without a lease yet", epoch, offset);
        addReply(c, shared.ok);
    }
}

static void setLease(client *c) {
    long long of, deadline;
    if (c->argc != 4) {
        addReplyErrorArity(c);
    } else if (integerArg(c, 2, &of) && integerArg(c, 3, &deadline)) {
        if (!txlogLeads() || of != epoch || of <= revoked) {
            addReplyErrorFormat(c, "No lease for epoch %lld: this engine leads in epoch %lld, and %lld is revoked", of,
                                txlogLeads() ? epoch : 0, revoked);
            return;
        }
        lease = deadline;
        txlog.checked = NULL;
        /* We had lapsed, and gossip has given our slots away meanwhile; but the log says that we lead. */
        if (server.cluster_enabled && (!clusterNodeIsPrimary(getMyClusterNode()) ||
                                       memcmp(getMyClusterNode()->slots, own_slots, sizeof(own_slots))))
            assertView();
        addReply(c, shared.ok);
    }
}

static void setRevoked(client *c) {
    long long of;
    if (c->argc != 3) {
        addReplyErrorArity(c);
    } else if (integerArg(c, 2, &of)) {
        revoked = max(revoked, of);
        txlog.checked = NULL;
        if (txlogLeads() && epoch <= revoked && lease) {
            long long now = boottime();
            lapsed_at = min(lease, now);
            lease = 0;
            watchLease();
        }
        addReply(c, shared.ok);
    }
}

static void setSwitch(client *c, int *value, sds *reason) {
    int yes = c->argc > 2 && !strcasecmp(objectGetVal(c->argv[2]), "yes");
    if (c->argc < 3 || c->argc > 4 || (!yes && strcasecmp(objectGetVal(c->argv[2]), "no"))) {
        addReplyErrorObject(c, shared.syntaxerr);
        return;
    }
    *value = yes;
    sdsfree(*reason);
    *reason = c->argc == 4 ? sdsmapchars(sdsdup(objectGetVal(c->argv[3])), "\r\n", "  ", 2) : NULL;
    addReply(c, shared.ok);
}

void txlogCommand(client *c) {
    const char *sub = objectGetVal(c->argv[1]);
    if (!txlogIsAgent(c)) {
        count.agent_only_refused++;
        addReplyError(c, "-NOPERM 'txlog' is reserved to the agent of this engine");
    } else if (!strcasecmp(sub, "attach") && c->argc == 2) {
        attach(c);
    } else if (!strcasecmp(sub, "status") && c->argc == 2) {
        addStatus(c);
    } else if (!strcasecmp(sub, "promote")) {
        promote(c);
    } else if (!strcasecmp(sub, "lease")) {
        setLease(c);
    } else if (!strcasecmp(sub, "revoke")) {
        setRevoked(c);
    } else if (!strcasecmp(sub, "writes")) {
        setSwitch(c, &writes, &full_reason);
    } else if (!strcasecmp(sub, "reads")) {
        setSwitch(c, &reads, &reads_reason);
    } else {
        addReplySubcommandSyntaxError(c);
    }
}

static struct serverCommand txlog_command = {
    .declared_name = "txlog",
    .summary = "Commands of the agent that connects this engine to its log.",
    .complexity = "O(1)",
    .since = "9.1.2",
    .group = COMMAND_GROUP_SERVER,
    .proc = txlogCommand,
    .arity = -2,
    .flags = CMD_ADMIN | CMD_NOSCRIPT | CMD_LOADING | CMD_STALE | CMD_NO_MULTI | CMD_ALLOW_BUSY | CMD_SKIP_MONITOR |
             CMD_SKIP_COMMANDLOG,
    .acl_categories = ACL_CATEGORY_ADMIN | ACL_CATEGORY_DANGEROUS | ACL_CATEGORY_FAST,
};

int populateCommandStructure(struct serverCommand *c);

void txlogInit(void) {
    if (!txlog.enabled) return;
    txlog.logged = !txlog.autoack;
    /* Not of the allocator, so that it does not count against maxmemory. */
    dirty = mmap(NULL, sizeof(*dirty) * (DIRTY_MASK + 1), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    serverAssert(dirty != MAP_FAILED);
    pushed = listCreate();
    bus = listCreate();
    listSetFreeMethod(bus, freeBusMessage);
    hdr_init(1, 60LL * 1000 * 1000, 2, &commit_latency);
    if (!txlog.logged) return;
    guard();
    txlog_command.fullname = txlog_command.current_name = sdsnew(txlog_command.declared_name);
    populateCommandStructure(&txlog_command);
    hashtableAdd(server.commands, &txlog_command);
    hashtableAdd(server.orig_commands, &txlog_command);
}

sds txlogInfo(sds info) {
    int leads = txlogLeads();
    info = sdscatprintf(info, "# Txlog\r\ntxlog_enabled:%d\r\n", txlog.enabled);
    if (!txlog.enabled) return info;
    long long now = boottime();
    return sdscatprintf(
        info,
        FMTARGS("txlog_role:%s\r\n", leads ? "leader" : "follower",
                "txlog_epoch:%lld\r\n", epoch,
                "txlog_revoked_epoch:%lld\r\n", revoked,
                "txlog_offset:%lld\r\n", server.primary_repl_offset,
                "txlog_committed:%lld\r\n", leads ? txlog.committed : server.primary_repl_offset,
                "txlog_uncommitted_bytes:%lld\r\n", leads ? uncommitted() : 0LL,
                "txlog_uncommitted_bytes_peak:%lld\r\n", count.uncommitted_peak,
                "txlog_lease_ms:%lld\r\n", lease > now ? (lease - now) / 1000 : 0LL,
                "txlog_writes:%d\r\n", writes,
                "txlog_reads:%d\r\n", leads || reads,
                "txlog_link:%s\r\n", leads ? "none" : linkState(),
                "txlog_agent_attached:%d\r\n", control != NULL,
                "txlog_held_clients:%d\r\n", heap_len,
                "txlog_held_clients_peak:%lld\r\n", count.held_clients_peak,
                "txlog_held_bytes:%lld\r\n", heldBytes(),
                "txlog_held_bytes_peak:%lld\r\n", count.held_bytes_peak, /* As seen by STATUS and INFO. */
                "txlog_held_bus_messages:%lu\r\n", listLength(bus),
                "txlog_total_held:%lld\r\n", count.held,
                "txlog_total_released:%lld\r\n", count.released,
                "txlog_total_pushes:%lld\r\n", count.pushes,
                "txlog_total_bus_messages_held:%lld\r\n", count.bus,
                "txlog_total_uncertain:%lld\r\n", count.uncertain,
                "txlog_refused_lease:%lld\r\n", count.lease_refused,
                "txlog_refused_limit:%lld\r\n", count.limit_refused,
                "txlog_refused_full:%lld\r\n", count.full_refused,
                "txlog_refused_agent_only:%lld\r\n", count.agent_only_refused,
                "txlog_commit_usec_p50:%lld\r\n", (long long)hdr_value_at_percentile(commit_latency, 50.0),
                "txlog_commit_usec_p99:%lld\r\n", (long long)hdr_value_at_percentile(commit_latency, 99.0),
                "txlog_commit_usec_p99.9:%lld\r\n", (long long)hdr_value_at_percentile(commit_latency, 99.9)));
}
