; Memory of large results, kept for the next ones; memory.py explains how.

%block = type {
  ptr,                    ; 0  as malloc gave it
  i64                     ; 1  bytes
}
%pool = type {
  i64,                    ; 0  1 while a thread has the pool
  i64,                    ; 1  number of blocks
  i64,                    ; 2  bytes of all of them
  [{blocks} x %block]     ; 3  the blocks, the oldest first
}
; PyDataMem_Handler: name, version, and its allocator's context, here the pool, and functions.
%handler = type { [127 x i8], i8, ptr, ptr, ptr, ptr, ptr }
; What Python fills in.
%python = type {
  ptr,                    ; 0  PyArray_Empty
  ptr,                    ; 1  PyDataMem_GetHandler
  ptr,                    ; 2  PyDataMem_SetHandler
  ptr,                    ; 3  NumPy's own handler
  ptr                     ; 4  the handler below, as an object
}

@pool = internal global %pool zeroinitializer
@handler = global %handler {
  [127 x i8] c"{name}", i8 1, ptr @pool, ptr @allocate, ptr @allocate_zeros, ptr @reallocate, ptr @release
}
@kind = constant [12 x i8] c"mem_handler\00"
@python = global %python zeroinitializer

declare ptr @malloc(i64)
declare ptr @calloc(i64, i64)
declare ptr @realloc(ptr, i64)
declare void @free(ptr)
declare i64 @malloc_usable_size(ptr)
declare i32 @madvise(ptr, i64, i32)
declare void @Py_DecRef(ptr)

; -- arrays ---------------------------------------------------------------------------------------

; PyArray_Empty with the handler in force, unless the user has set another.
define ptr @empty(i32 %axes, ptr %shape, ptr %dtype, i32 %order) {
  %make.at = getelementptr %python, ptr @python, i64 0, i32 0
  %make = load ptr, ptr %make.at
  %get.at = getelementptr %python, ptr @python, i64 0, i32 1
  %get = load ptr, ptr %get.at
  %set.at = getelementptr %python, ptr @python, i64 0, i32 2
  %set = load ptr, ptr %set.at
  %usual.at = getelementptr %python, ptr @python, i64 0, i32 3
  %usual = load ptr, ptr %usual.at
  %ours.at = getelementptr %python, ptr @python, i64 0, i32 4
  %ours = load ptr, ptr %ours.at
  %now = call ptr %get()
  %unknown = icmp eq ptr %now, null
  br i1 %unknown, label %failed, label %compare
compare:
  call void @Py_DecRef(ptr %now)
  %nobody.else = icmp eq ptr %now, %usual
  br i1 %nobody.else, label %change, label %of.the.user
of.the.user:
  %plain = call ptr %make(i32 %axes, ptr %shape, ptr %dtype, i32 %order)
  ret ptr %plain
change:
  %before = call ptr %set(ptr %ours)
  %unchanged = icmp eq ptr %before, null
  br i1 %unchanged, label %failed, label %changed
changed:
  call void @Py_DecRef(ptr %before)
  %array = call ptr %make(i32 %axes, ptr %shape, ptr %dtype, i32 %order)
  %again = call ptr %set(ptr %usual)
  %stays = icmp eq ptr %again, null
  br i1 %stays, label %drop, label %made
made:
  call void @Py_DecRef(ptr %again)
  ret ptr %array
drop:
  call void @Py_DecRef(ptr %array)
  ret ptr null
failed:
  call void @Py_DecRef(ptr %dtype)
  ret ptr null
}

; -- the handler's functions ----------------------------------------------------------------------

define internal ptr @allocate(ptr %pool, i64 %bytes) {
  %large = icmp uge i64 %bytes, {large}
  br i1 %large, label %look, label %small
small:
  %plain = call ptr @malloc(i64 %bytes)
  ret ptr %plain
look:
  %kept = call ptr @take(ptr %pool, i64 %bytes)
  %found = icmp ne ptr %kept, null
  br i1 %found, label %again, label %new
again:
  ret ptr %kept
new:
  %fresh = call ptr @malloc(i64 %bytes)
  %none = icmp eq ptr %fresh, null
  br i1 %none, label %short, label %made
made:
  ; As NumPy does, where it does; what the system does not grant is slower, no more.
  br i1 {huge}, label %huge, label %ready
huge:
  %ignored = call i32 @advise(ptr %fresh, i64 %bytes, i32 14)  ; MADV_HUGEPAGE
  br label %ready
ready:
  ret ptr %fresh
short:
  ; What is kept must be in nobody's way.
  call void @clear(ptr %pool)
  %last = call ptr @malloc(i64 %bytes)
  ret ptr %last
}

define internal ptr @allocate_zeros(ptr %pool, i64 %count, i64 %size) {
  %zeros = call ptr @calloc(i64 %count, i64 %size)
  ret ptr %zeros
}

define internal ptr @reallocate(ptr %pool, ptr %block, i64 %bytes) {
  %moved = call ptr @realloc(ptr %block, i64 %bytes)
  ret ptr %moved
}

; NumPy says how many bytes the array has now, which need not be the block's.
define internal void @release(ptr %pool, ptr %block, i64 %claimed) {
  %bytes = call i64 @malloc_usable_size(ptr %block)
  %large = icmp uge i64 %bytes, {large}
  %fits = icmp ule i64 %bytes, {most}
  %worth = and i1 %large, %fits
  br i1 %worth, label %mark, label %away
mark:
  %error = call i32 @advise(ptr %block, i64 %bytes, i32 8)  ; MADV_FREE
  %marked = icmp eq i32 %error, 0
  br i1 %marked, label %try, label %away
try:
  %entered = call i1 @enter(ptr %pool)
  br i1 %entered, label %keep, label %away
keep:
  call void @put(ptr %pool, ptr %block, i64 %bytes)
  call void @leave(ptr %pool)
  ret void
away:
  call void @free(ptr %block)
  ret void
}

; Tell the system about the whole pages of a block.
define internal i32 @advise(ptr %block, i64 %bytes, i32 %advice) {
  %start = ptrtoint ptr %block to i64
  %stop = add i64 %start, %bytes
  %beyond = add i64 %start, {within}
  %first = and i64 %beyond, -{page}
  %last = and i64 %stop, -{page}
  %length = sub i64 %last, %first
  %from = inttoptr i64 %first to ptr
  %error = call i32 @madvise(ptr %from, i64 %length, i32 %advice)
  ret i32 %error
}

; -- the pool -------------------------------------------------------------------------------------

; Whether the pool is the caller's now. Who does not get it does without, and never waits: the thread
; that has it may be one that a forked child lacks.
define internal i1 @enter(ptr %pool) {
  %pair = cmpxchg ptr %pool, i64 0, i64 1 acquire monotonic
  %entered = extractvalue { i64, i1 } %pair, 1
  ret i1 %entered
}

define internal void @leave(ptr %pool) {
  store atomic i64 0, ptr %pool release, align 8
  ret void
}

; Return a block that is large enough and at most an eighth too large, the one kept last; else null.
define internal ptr @take(ptr %pool, i64 %bytes) {
  %eighth = lshr i64 %bytes, 3
  %limit = add i64 %bytes, %eighth
  %entered = call i1 @enter(ptr %pool)
  br i1 %entered, label %begin, label %nothing
begin:
  %count.at = getelementptr %pool, ptr %pool, i64 0, i32 1
  %count = load i64, ptr %count.at
  br label %each
each:
  %left = phi i64 [ %count, %begin ], [ %number, %one ]
  %over = icmp eq i64 %left, 0
  br i1 %over, label %none, label %one
one:
  %number = sub i64 %left, 1
  %size.at = getelementptr %pool, ptr %pool, i64 0, i32 3, i64 %number, i32 1
  %size = load i64, ptr %size.at
  %enough = icmp uge i64 %size, %bytes
  %close = icmp ule i64 %size, %limit
  %right = and i1 %enough, %close
  br i1 %right, label %found, label %each
found:
  %block = call ptr @remove(ptr %pool, i64 %number)
  call void @leave(ptr %pool)
  ret ptr %block
none:
  call void @leave(ptr %pool)
  br label %nothing
nothing:
  ret ptr null
}

; Keep a block; the oldest ones go until there is room.
define internal void @put(ptr %pool, ptr %block, i64 %bytes) {
  %count.at = getelementptr %pool, ptr %pool, i64 0, i32 1
  %all.at = getelementptr %pool, ptr %pool, i64 0, i32 2
  br label %look
look:
  %all = load i64, ptr %all.at
  %with = add i64 %all, %bytes
  %excess = icmp ugt i64 %with, {most}
  br i1 %excess, label %drop, label %add
drop:
  %oldest = call ptr @remove(ptr %pool, i64 0)
  call void @free(ptr %oldest)
  br label %look
add:
  %count = load i64, ptr %count.at
  %to = getelementptr %pool, ptr %pool, i64 0, i32 3, i64 %count
  store ptr %block, ptr %to
  %size.to = getelementptr %block, ptr %to, i64 0, i32 1
  store i64 %bytes, ptr %size.to
  %more = add i64 %count, 1
  store i64 %more, ptr %count.at
  store i64 %with, ptr %all.at
  ret void
}

; Give all blocks back.
define internal void @clear(ptr %pool) {
  %entered = call i1 @enter(ptr %pool)
  br i1 %entered, label %look, label %end
look:
  %count.at = getelementptr %pool, ptr %pool, i64 0, i32 1
  %count = load i64, ptr %count.at
  %over = icmp eq i64 %count, 0
  br i1 %over, label %empty, label %drop
drop:
  %oldest = call ptr @remove(ptr %pool, i64 0)
  call void @free(ptr %oldest)
  br label %look
empty:
  call void @leave(ptr %pool)
  br label %end
end:
  ret void
}

; Take a block out; those after it move up.
define internal ptr @remove(ptr %pool, i64 %number) {
  %count.at = getelementptr %pool, ptr %pool, i64 0, i32 1
  %all.at = getelementptr %pool, ptr %pool, i64 0, i32 2
  %at = getelementptr %pool, ptr %pool, i64 0, i32 3, i64 %number
  %block = load ptr, ptr %at
  %size.at = getelementptr %block, ptr %at, i64 0, i32 1
  %size = load i64, ptr %size.at
  %all = load i64, ptr %all.at
  %rest = sub i64 %all, %size
  store i64 %rest, ptr %all.at
  %count = load i64, ptr %count.at
  %fewer = sub i64 %count, 1
  store i64 %fewer, ptr %count.at
  br label %each
each:
  %place = phi i64 [ %number, %0 ], [ %next, %move ]
  %more = icmp ult i64 %place, %fewer
  br i1 %more, label %move, label %end
move:
  %next = add i64 %place, 1
  %from = getelementptr %pool, ptr %pool, i64 0, i32 3, i64 %next
  %to = getelementptr %pool, ptr %pool, i64 0, i32 3, i64 %place
  %moved = load %block, ptr %from
  store %block %moved, ptr %to
  br label %each
end:
  ret ptr %block
}
