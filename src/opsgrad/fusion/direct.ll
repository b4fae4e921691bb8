; A call of compiled tasks from its arguments to its result; direct.py explains how.
;
; A table is a header and entries, one for each kind of arrays that is known. All are 64-bit words.

%header = type {
  ptr,                ; 0  the type numpy.ndarray
  ptr,                ; 1  None
  ptr,                ; 2  Py_IncRef
  ptr,                ; 3  Py_DecRef
  ptr,                ; 4  PyTuple_New
  ptr,                ; 5  PyTuple_SetItem
  ptr,                ; 6  PyMem_RawMalloc
  ptr,                ; 7  PyMem_RawFree
  ptr,                ; 8  PyArray_Empty
  ptr,                ; 9  PyArray_Return
  ptr,                ; 10 PyEval_SaveThread
  ptr,                ; 11 PyEval_RestoreThread
  ptr                 ; 12 the crew
}
; Who computes: threads.py keeps it up to date.
%crew = type {
  i64,                ; 0  whether that is known
  ptr,                ; 1  the function that runs a kernel on the team, null without one
  ptr,                ; 2  team
  i64                 ; 3  helpers
}
%entry = type {
  i64,                ; 0  words of this entry, 0 after the last
  i64,                ; 1  number of arguments
  i64,                ; 2  number of inputs that come before them, 0 or 1
  i64,                ; 3  the number that this one holds
  ptr,                ; 4  kernel
  i64,                ; 5  rows
  i64,                ; 6  length
  i64,                ; 7  length of a shorter row after the last, or 0
  i64,                ; 8  bytes of scratch memory
  i64,                ; 9  number of outputs
  i64,                ; 10 length of the tuple that is returned; -1 for the first output alone
  i64,                ; 11 bytes of a number of the outputs
  double,             ; 12 what the sum of the first output is divided by; 0: it is not summed
  i64,                ; 13 word at which the strides begin
  i64,                ; 14 word at which the arguments are described
  i64,                ; 15 word at which the outputs are described
  i64,                ; 16 the fewest rows for a thread; 0: the caller alone, which keeps the lock
  i64,                ; 17 a bit for each output, set where its first axis is to be added up
  i64,                ; 18 a bit for each output, set where its memory is to come from the pool
  ptr                 ; 19 what makes these, as PyArray_Empty makes the others
}
; An argument is described by the number of its data type, -1 for None; how many classes its labels
; name, or 0; the number of axes; shape; strides. An output by the address of its data type, its place
; in the tuple, the number of axes and shape.
%description = type { i64, i64, i64 }
; NumPy's arrays and data types, behind the head of every object.
%array = type { ptr, i32, ptr, ptr, ptr, ptr, i32 }
%dtype = type { ptr, i8, i8, i8, i32 }

define ptr @direct(ptr %self, ptr %arguments, i64 %count) {
  %fields = getelementptr i8, ptr %self, i64 {head}
  %header = load ptr, ptr %fields
  %first = getelementptr %header, ptr %header, i64 1
  br label %look
look:
  %entry = phi ptr [ %first, %0 ], [ %next, %further ]
  %words = load i64, ptr %entry
  %over = icmp eq i64 %words, 0
  br i1 %over, label %unknown, label %compare
compare:
  %fits = call i1 @fits(ptr %header, ptr %entry, ptr %arguments, i64 %count)
  br i1 %fits, label %prepare, label %further
prepare:
  %ready = call i1 @ready(ptr %header, ptr %entry)
  br i1 %ready, label %known, label %unknown
further:
  %next = getelementptr i64, ptr %entry, i64 %words
  br label %look
known:
  %result = call ptr @answer(ptr %header, ptr %entry, ptr %arguments)
  ret ptr %result
unknown:
  %nothing = call ptr @none(ptr %header)
  ret ptr %nothing
}

define private ptr @none(ptr %header) {
  %at = getelementptr %header, ptr %header, i64 0, i32 1
  %none = load ptr, ptr %at
  call void @increase(ptr %header, ptr %none)
  ret ptr %none
}

define private void @increase(ptr %header, ptr %object) alwaysinline {
  %at = getelementptr %header, ptr %header, i64 0, i32 2
  %function = load ptr, ptr %at
  call void %function(ptr %object)
  ret void
}

define private void @decrease(ptr %header, ptr %object) alwaysinline {
  %at = getelementptr %header, ptr %header, i64 0, i32 3
  %function = load ptr, ptr %at
  call void %function(ptr %object)
  ret void
}

; Whether there is a crew, if the entry wants one.
define private i1 @ready(ptr %header, ptr %entry) {
  %grain.at = getelementptr %entry, ptr %entry, i64 0, i32 16
  %grain = load i64, ptr %grain.at
  %alone = icmp eq i64 %grain, 0
  %crew.at = getelementptr %header, ptr %header, i64 0, i32 12
  %crew = load ptr, ptr %crew.at
  %state = load i64, ptr %crew
  %known = icmp ne i64 %state, 0
  %ready = or i1 %alone, %known
  ret i1 %ready
}

; -- whether an entry is for these arguments ------------------------------------------------------

define private i1 @fits(ptr %header, ptr %entry, ptr %arguments, i64 %count) {
  %expected.at = getelementptr %entry, ptr %entry, i64 0, i32 1
  %expected = load i64, ptr %expected.at
  %same = icmp eq i64 %expected, %count
  br i1 %same, label %begin, label %no
begin:
  %word.at = getelementptr %entry, ptr %entry, i64 0, i32 14
  %word = load i64, ptr %word.at
  %first = getelementptr i64, ptr %entry, i64 %word
  %type = load ptr, ptr %header
  %none.at = getelementptr %header, ptr %header, i64 0, i32 1
  %none = load ptr, ptr %none.at
  br label %each
each:
  %number = phi i64 [ 0, %begin ], [ %number.next, %advance ]
  %description = phi ptr [ %first, %begin ], [ %description.end, %advance ]
  %more = icmp slt i64 %number, %count
  br i1 %more, label %argument, label %yes
argument:
  %object.at = getelementptr ptr, ptr %arguments, i64 %number
  %object = load ptr, ptr %object.at
  %dtype = load i64, ptr %description
  %class.at = getelementptr %description, ptr %description, i64 0, i32 1
  %classes = load i64, ptr %class.at
  %axes.at = getelementptr %description, ptr %description, i64 0, i32 2
  %axes = load i64, ptr %axes.at
  %shape = getelementptr %description, ptr %description, i64 1
  %strides = getelementptr i64, ptr %shape, i64 %axes
  %description.end = getelementptr i64, ptr %strides, i64 %axes
  %absent = icmp eq i64 %dtype, -1
  br i1 %absent, label %left.out, label %present
left.out:
  %is.none = icmp eq ptr %object, %none
  br i1 %is.none, label %advance, label %no
present:
  %type.at = getelementptr i8, ptr %object, i64 {type}
  %type.is = load ptr, ptr %type.at
  %an.array = icmp eq ptr %type.is, %type
  br i1 %an.array, label %look.inside, label %no
look.inside:
  %fields = getelementptr i8, ptr %object, i64 {head}
  %dtype.at = getelementptr %array, ptr %fields, i64 0, i32 5
  %dtype.is = load ptr, ptr %dtype.at
  %dtype.fields = getelementptr i8, ptr %dtype.is, i64 {head}
  %number.at = getelementptr %dtype, ptr %dtype.fields, i64 0, i32 4
  %number.short = load i32, ptr %number.at
  %number.is = sext i32 %number.short to i64
  %same.number = icmp eq i64 %number.is, %dtype
  %order.at = getelementptr %dtype, ptr %dtype.fields, i64 0, i32 3
  %order = load i8, ptr %order.at
  %native = icmp eq i8 %order, 61  ; "="
  %same.dtype = and i1 %same.number, %native
  %axes.is.at = getelementptr %array, ptr %fields, i64 0, i32 1
  %axes.short = load i32, ptr %axes.is.at
  %axes.is = sext i32 %axes.short to i64
  %same.axes = icmp eq i64 %axes.is, %axes
  %flags.at = getelementptr %array, ptr %fields, i64 0, i32 6
  %flags = load i32, ptr %flags.at
  %aligned.bit = and i32 %flags, 256
  %aligned = icmp ne i32 %aligned.bit, 0
  %so.far = and i1 %same.dtype, %same.axes
  %alike = and i1 %so.far, %aligned
  br i1 %alike, label %geometry, label %no
geometry:
  %shape.at = getelementptr %array, ptr %fields, i64 0, i32 2
  %shape.is = load ptr, ptr %shape.at
  %strides.at = getelementptr %array, ptr %fields, i64 0, i32 3
  %strides.is = load ptr, ptr %strides.at
  br label %axis
axis:
  %place = phi i64 [ 0, %geometry ], [ %place.next, %same.axis ]
  %values = phi i64 [ 1, %geometry ], [ %values.next, %same.axis ]
  %more.axes = icmp slt i64 %place, %axes
  br i1 %more.axes, label %one.axis, label %same.geometry
one.axis:
  %size.at = getelementptr i64, ptr %shape, i64 %place
  %size = load i64, ptr %size.at
  %size.is.at = getelementptr i64, ptr %shape.is, i64 %place
  %size.is = load i64, ptr %size.is.at
  %same.size = icmp eq i64 %size, %size.is
  %stride.at = getelementptr i64, ptr %strides, i64 %place
  %stride = load i64, ptr %stride.at
  %stride.is.at = getelementptr i64, ptr %strides.is, i64 %place
  %stride.is = load i64, ptr %stride.is.at
  %same.stride = icmp eq i64 %stride, %stride.is
  %both = and i1 %same.size, %same.stride
  br i1 %both, label %same.axis, label %no
same.axis:
  %place.next = add i64 %place, 1
  %values.next = mul i64 %values, %size
  br label %axis
same.geometry:
  %unchecked = icmp eq i64 %classes, 0
  br i1 %unchecked, label %advance, label %labels
labels:
  %data = load ptr, ptr %fields
  %named = call i1 @below(ptr %data, i64 %values, i64 %classes)
  br i1 %named, label %advance, label %no
advance:
  %number.next = add i64 %number, 1
  br label %each
yes:
  ret i1 true
no:
  ret i1 false
}

; Whether all numbers are from 0 to `limit` - 1: none is above, counted without a sign.
define private i1 @below(ptr %from, i64 %count, i64 %limit) {
  %whole = and i64 %count, -8
  %first = insertelement <8 x i64> poison, i64 %limit, i64 0
  %limits = shufflevector <8 x i64> %first, <8 x i64> poison, <8 x i32> zeroinitializer
  br label %eights
eights:
  %at = phi i64 [ 0, %0 ], [ %at.next, %eight ]
  %wrong = phi <8 x i1> [ zeroinitializer, %0 ], [ %wrong.next, %eight ]
  %more = icmp slt i64 %at, %whole
  br i1 %more, label %eight, label %fold
eight:
  %eight.at = getelementptr i64, ptr %from, i64 %at
  %numbers = load <8 x i64>, ptr %eight.at, align 8
  %outside = icmp uge <8 x i64> %numbers, %limits
  %wrong.next = or <8 x i1> %wrong, %outside
  %at.next = add i64 %at, 8
  br label %eights
fold:
  %any = call i1 @llvm.vector.reduce.or.v8i1(<8 x i1> %wrong)
  br label %ones
ones:
  %place = phi i64 [ %whole, %fold ], [ %place.next, %one ]
  %bad = phi i1 [ %any, %fold ], [ %bad.next, %one ]
  %left = icmp slt i64 %place, %count
  br i1 %left, label %one, label %end
one:
  %one.at = getelementptr i64, ptr %from, i64 %place
  %number = load i64, ptr %one.at
  %is.outside = icmp uge i64 %number, %limit
  %bad.next = or i1 %bad, %is.outside
  %place.next = add i64 %place, 1
  br label %ones
end:
  %good = xor i1 %bad, true
  ret i1 %good
}

; -- the result -------------------------------------------------------------------------------

define private ptr @answer(ptr %header, ptr %entry, ptr %arguments) {
  %pointers = alloca [{most} x ptr]
  %outputs = alloca [{most} x ptr]
  %taken = call i64 @take(ptr %header, ptr %entry, ptr %arguments, ptr %pointers)
  %rest = getelementptr ptr, ptr %pointers, i64 %taken
  %made = call i1 @make(ptr %header, ptr %entry, ptr %outputs, ptr %rest)
  br i1 %made, label %compute, label %failed
compute:
  %done = call i1 @compute(ptr %header, ptr %entry, ptr %pointers)
  br i1 %done, label %computed, label %no.memory
computed:
  %merged = call i1 @merge(ptr %header, ptr %entry, ptr %outputs)
  br i1 %merged, label %add.up, label %release
add.up:
  %summed = call i1 @total(ptr %header, ptr %entry, ptr %outputs)
  br i1 %summed, label %give, label %release
give:
  %result = call ptr @give(ptr %header, ptr %entry, ptr %outputs)
  ret ptr %result
no.memory:
  call void @release(ptr %header, ptr %entry, ptr %outputs)
  %nothing = call ptr @none(ptr %header)
  ret ptr %nothing
release:
  call void @release(ptr %header, ptr %entry, ptr %outputs)
  ret ptr null
failed:
  ret ptr null
}

; Put the addresses of all inputs' data into `pointers`; return their number.
define private i64 @take(ptr %header, ptr %entry, ptr %arguments, ptr %pointers) {
  %count.at = getelementptr %entry, ptr %entry, i64 0, i32 1
  %count = load i64, ptr %count.at
  %before.at = getelementptr %entry, ptr %entry, i64 0, i32 2
  %before = load i64, ptr %before.at
  %held = getelementptr %entry, ptr %entry, i64 0, i32 3
  store ptr %held, ptr %pointers
  %none.at = getelementptr %header, ptr %header, i64 0, i32 1
  %none = load ptr, ptr %none.at
  %own = getelementptr ptr, ptr %pointers, i64 %before
  br label %each
each:
  %number = phi i64 [ 0, %0 ], [ %next, %argument ]
  %more = icmp slt i64 %number, %count
  br i1 %more, label %argument, label %end
argument:
  %object.at = getelementptr ptr, ptr %arguments, i64 %number
  %object = load ptr, ptr %object.at
  %absent = icmp eq ptr %object, %none
  %fields = getelementptr i8, ptr %object, i64 {head}
  ; None has no data, and no kernel looks for it: any address will do.
  %from = select i1 %absent, ptr %pointers, ptr %fields
  %data = load ptr, ptr %from
  %to = getelementptr ptr, ptr %own, i64 %number
  store ptr %data, ptr %to
  %next = add i64 %number, 1
  br label %each
end:
  %all = add i64 %count, %before
  ret i64 %all
}

; Make the outputs; put them into `outputs` and the addresses of their data into `pointers`.
define private i1 @make(ptr %header, ptr %entry, ptr %outputs, ptr %pointers) {
  %count.at = getelementptr %entry, ptr %entry, i64 0, i32 9
  %count = load i64, ptr %count.at
  %word.at = getelementptr %entry, ptr %entry, i64 0, i32 15
  %word = load i64, ptr %word.at
  %first = getelementptr i64, ptr %entry, i64 %word
  %usual.at = getelementptr %header, ptr %header, i64 0, i32 8
  %usual = load ptr, ptr %usual.at
  %bits.at = getelementptr %entry, ptr %entry, i64 0, i32 18
  %bits = load i64, ptr %bits.at
  %for.large.at = getelementptr %entry, ptr %entry, i64 0, i32 19
  %for.large = load ptr, ptr %for.large.at
  br label %each
each:
  %number = phi i64 [ 0, %0 ], [ %number.next, %made ]
  %description = phi ptr [ %first, %0 ], [ %description.next, %made ]
  %more = icmp slt i64 %number, %count
  br i1 %more, label %one, label %end
one:
  %dtype = load ptr, ptr %description
  %axes.at = getelementptr %description, ptr %description, i64 0, i32 2
  %axes = load i64, ptr %axes.at
  %shape = getelementptr %description, ptr %description, i64 1
  %bits.left = lshr i64 %bits, %number
  %large = trunc i64 %bits.left to i1
  %maker = select i1 %large, ptr %for.large, ptr %usual
  %object = call ptr @made(ptr %header, ptr %maker, i64 %axes, ptr %shape, ptr %dtype)
  %failed = icmp eq ptr %object, null
  br i1 %failed, label %drop, label %made
made:
  %to = getelementptr ptr, ptr %outputs, i64 %number
  store ptr %object, ptr %to
  %fields = getelementptr i8, ptr %object, i64 {head}
  %data = load ptr, ptr %fields
  %data.to = getelementptr ptr, ptr %pointers, i64 %number
  store ptr %data, ptr %data.to
  %number.next = add i64 %number, 1
  %description.next = getelementptr i64, ptr %shape, i64 %axes
  br label %each
end:
  ret i1 true
drop:
  call void @drop(ptr %header, ptr %outputs, i64 %number)
  ret i1 false
}

define private ptr @empty(ptr %header, i64 %axes, ptr %shape, ptr %dtype) {
  %at = getelementptr %header, ptr %header, i64 0, i32 8
  %maker = load ptr, ptr %at
  %object = call ptr @made(ptr %header, ptr %maker, i64 %axes, ptr %shape, ptr %dtype)
  ret ptr %object
}

define private ptr @made(ptr %header, ptr %maker, i64 %axes, ptr %shape, ptr %dtype) {
  call void @increase(ptr %header, ptr %dtype)
  %axes.short = trunc i64 %axes to i32
  %object = call ptr %maker(i32 %axes.short, ptr %shape, ptr %dtype, i32 0)
  ret ptr %object
}

define private void @release(ptr %header, ptr %entry, ptr %outputs) {
  %count.at = getelementptr %entry, ptr %entry, i64 0, i32 9
  %count = load i64, ptr %count.at
  call void @drop(ptr %header, ptr %outputs, i64 %count)
  ret void
}

define private void @drop(ptr %header, ptr %outputs, i64 %count) {
  br label %each
each:
  %number = phi i64 [ 0, %0 ], [ %next, %one ]
  %more = icmp slt i64 %number, %count
  br i1 %more, label %one, label %end
one:
  %at = getelementptr ptr, ptr %outputs, i64 %number
  %object = load ptr, ptr %at
  call void @decrease(ptr %header, ptr %object)
  %next = add i64 %number, 1
  br label %each
end:
  ret void
}

; Run the kernel; false if there is no scratch memory.
define private i1 @compute(ptr %header, ptr %entry, ptr %pointers) {
  %kernel.at = getelementptr %entry, ptr %entry, i64 0, i32 4
  %kernel = load ptr, ptr %kernel.at
  %rows.at = getelementptr %entry, ptr %entry, i64 0, i32 5
  %rows = load i64, ptr %rows.at
  %length.at = getelementptr %entry, ptr %entry, i64 0, i32 6
  %length = load i64, ptr %length.at
  %rest.at = getelementptr %entry, ptr %entry, i64 0, i32 7
  %rest = load i64, ptr %rest.at
  %bytes.at = getelementptr %entry, ptr %entry, i64 0, i32 8
  %bytes = load i64, ptr %bytes.at
  %word.at = getelementptr %entry, ptr %entry, i64 0, i32 13
  %word = load i64, ptr %word.at
  %strides = getelementptr i64, ptr %entry, i64 %word
  %needless = icmp eq i64 %bytes, 0
  br i1 %needless, label %run, label %allocate
allocate:
  %room = add i64 %bytes, {alignment}
  %allocate.at = getelementptr %header, ptr %header, i64 0, i32 6
  %allocate.function = load ptr, ptr %allocate.at
  %memory = call ptr %allocate.function(i64 %room)
  %none.left = icmp eq ptr %memory, null
  br i1 %none.left, label %failed, label %align
align:
  %behind = getelementptr i8, ptr %memory, i64 {alignment}
  %address = ptrtoint ptr %behind to i64
  %excess = urem i64 %address, {alignment}
  %back = sub i64 0, %excess
  %aligned = getelementptr i8, ptr %behind, i64 %back
  br label %run
run:
  %block = phi ptr [ null, %0 ], [ %memory, %align ]
  %scratch = phi ptr [ null, %0 ], [ %aligned, %align ]
  %grain.at = getelementptr %entry, ptr %entry, i64 0, i32 16
  %grain = load i64, ptr %grain.at
  %crew.at = getelementptr %header, ptr %header, i64 0, i32 12
  %crew = load ptr, ptr %crew.at
  %team.run.at = getelementptr %crew, ptr %crew, i64 0, i32 1
  %team.run = load ptr, ptr %team.run.at
  %team.at = getelementptr %crew, ptr %crew, i64 0, i32 2
  %team = load ptr, ptr %team.at
  %helpers.at = getelementptr %crew, ptr %crew, i64 0, i32 3
  %helpers = load i64, ptr %helpers.at
  %keeps.lock = icmp eq i64 %grain, 0
  br i1 %keeps.lock, label %alone, label %unlock
unlock:
  %save.at = getelementptr %header, ptr %header, i64 0, i32 10
  %save = load ptr, ptr %save.at
  %saved = call ptr %save()
  %nobody = icmp eq ptr %team.run, null
  br i1 %nobody, label %alone, label %together
together:
  call void %team.run(ptr %team, ptr %kernel, i64 %rows, i64 %length, ptr %pointers, ptr %strides, ptr %scratch, i64 %bytes, i64 %grain, i64 %helpers)
  br label %whole.rows
alone:
  %lock = phi ptr [ null, %run ], [ %saved, %unlock ]
  call void %kernel(i64 0, i64 %rows, i64 %length, ptr %pointers, ptr %strides, ptr %scratch)
  br label %whole.rows
whole.rows:
  %state = phi ptr [ %lock, %alone ], [ %saved, %together ]
  %whole = icmp eq i64 %rest, 0
  br i1 %whole, label %finish, label %last
last:
  %after = add i64 %rows, 1
  call void %kernel(i64 %rows, i64 %after, i64 %rest, ptr %pointers, ptr %strides, ptr %scratch)
  br label %finish
finish:
  br i1 %keeps.lock, label %free, label %relock
relock:
  %restore.at = getelementptr %header, ptr %header, i64 0, i32 11
  %restore = load ptr, ptr %restore.at
  call void %restore(ptr %state)
  br label %free
free:
  %free.at = getelementptr %header, ptr %header, i64 0, i32 7
  %free.function = load ptr, ptr %free.at
  call void %free.function(ptr %block)
  ret i1 true
failed:
  ret i1 false
}

; Put the outputs into a tuple, and None where none belongs.
define private ptr @give(ptr %header, ptr %entry, ptr %outputs) {
  %count.at = getelementptr %entry, ptr %entry, i64 0, i32 9
  %count = load i64, ptr %count.at
  %size.at = getelementptr %entry, ptr %entry, i64 0, i32 10
  %size = load i64, ptr %size.at
  %alone = icmp slt i64 %size, 0
  br i1 %alone, label %first, label %several
first:
  %value = load ptr, ptr %outputs
  %others = getelementptr ptr, ptr %outputs, i64 1
  %more.than.one = sub i64 %count, 1
  call void @drop(ptr %header, ptr %others, i64 %more.than.one)
  ret ptr %value
several:
  %new.at = getelementptr %header, ptr %header, i64 0, i32 4
  %new = load ptr, ptr %new.at
  %set.at = getelementptr %header, ptr %header, i64 0, i32 5
  %set = load ptr, ptr %set.at
  %tuple = call ptr %new(i64 %size)
  %failed = icmp eq ptr %tuple, null
  br i1 %failed, label %release, label %fill
release:
  call void @drop(ptr %header, ptr %outputs, i64 %count)
  ret ptr null
fill:
  %filled = phi i64 [ 0, %several ], [ %filled.next, %fill.one ]
  %to.fill = icmp slt i64 %filled, %size
  br i1 %to.fill, label %fill.one, label %begin
fill.one:
  %none = call ptr @none(ptr %header)
  %ignored = call i32 %set(ptr %tuple, i64 %filled, ptr %none)
  %filled.next = add i64 %filled, 1
  br label %fill
begin:
  %word.at = getelementptr %entry, ptr %entry, i64 0, i32 15
  %word = load i64, ptr %word.at
  %first.description = getelementptr i64, ptr %entry, i64 %word
  br label %each
each:
  %number = phi i64 [ 0, %begin ], [ %number.next, %one ]
  %description = phi ptr [ %first.description, %begin ], [ %description.next, %one ]
  %more = icmp slt i64 %number, %count
  br i1 %more, label %one, label %end
one:
  %object.at = getelementptr ptr, ptr %outputs, i64 %number
  %object = load ptr, ptr %object.at
  %place.at = getelementptr %description, ptr %description, i64 0, i32 1
  %place = load i64, ptr %place.at
  %axes.at = getelementptr %description, ptr %description, i64 0, i32 2
  %axes = load i64, ptr %axes.at
  %shape = getelementptr %description, ptr %description, i64 1
  %also.ignored = call i32 %set(ptr %tuple, i64 %place, ptr %object)
  %number.next = add i64 %number, 1
  %description.next = getelementptr i64, ptr %shape, i64 %axes
  br label %each
end:
  ret ptr %tuple
}

; -- what is added up over rows ----------------------------------------------------------------

; Add up the first axis of the outputs that the entry says.
define private i1 @merge(ptr %header, ptr %entry, ptr %outputs) {
  %bits.at = getelementptr %entry, ptr %entry, i64 0, i32 17
  %bits = load i64, ptr %bits.at
  %item.at = getelementptr %entry, ptr %entry, i64 0, i32 11
  %item = load i64, ptr %item.at
  %word.at = getelementptr %entry, ptr %entry, i64 0, i32 15
  %word = load i64, ptr %word.at
  %first = getelementptr i64, ptr %entry, i64 %word
  br label %each
each:
  %number = phi i64 [ 0, %0 ], [ %number.next, %advance ]
  %left = phi i64 [ %bits, %0 ], [ %left.next, %advance ]
  %description = phi ptr [ %first, %0 ], [ %description.next, %advance ]
  %none.left = icmp eq i64 %left, 0
  br i1 %none.left, label %end, label %one
one:
  %dtype = load ptr, ptr %description
  %axes.at = getelementptr %description, ptr %description, i64 0, i32 2
  %axes = load i64, ptr %axes.at
  %shape = getelementptr %description, ptr %description, i64 1
  %bit = and i64 %left, 1
  %as.it.is = icmp eq i64 %bit, 0
  br i1 %as.it.is, label %advance, label %count
count:
  %place = phi i64 [ 1, %one ], [ %place.next, %axis ]
  %length = phi i64 [ 1, %one ], [ %length.next, %axis ]
  %more.axes = icmp slt i64 %place, %axes
  br i1 %more.axes, label %axis, label %add
axis:
  %size.at = getelementptr i64, ptr %shape, i64 %place
  %size = load i64, ptr %size.at
  %length.next = mul i64 %length, %size
  %place.next = add i64 %place, 1
  br label %count
add:
  %rows = load i64, ptr %shape
  %object.at = getelementptr ptr, ptr %outputs, i64 %number
  %parts = load ptr, ptr %object.at
  %fields = getelementptr i8, ptr %parts, i64 {head}
  %data = load ptr, ptr %fields
  %short = icmp eq i64 %item, 4
  br i1 %short, label %floats, label %doubles
floats:
  call void @add_rows_of_float(ptr %data, i64 %rows, i64 %length)
  br label %replace
doubles:
  call void @add_rows_of_double(ptr %data, i64 %rows, i64 %length)
  br label %replace
replace:
  %axes.left = sub i64 %axes, 1
  %shape.left = getelementptr i64, ptr %shape, i64 1
  %made = call ptr @empty(ptr %header, i64 %axes.left, ptr %shape.left, ptr %dtype)
  %failed = icmp eq ptr %made, null
  br i1 %failed, label %no, label %copy
copy:
  %made.fields = getelementptr i8, ptr %made, i64 {head}
  %to = load ptr, ptr %made.fields
  %bytes = mul i64 %length, %item
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %data, i64 %bytes, i1 false)
  call void @decrease(ptr %header, ptr %parts)
  ; A number, where no axis is left, as NumPy returns them.
  %return.at = getelementptr %header, ptr %header, i64 0, i32 9
  %return = load ptr, ptr %return.at
  %result = call ptr %return(ptr %made)
  store ptr %result, ptr %object.at
  br label %advance
advance:
  %number.next = add i64 %number, 1
  %left.next = lshr i64 %left, 1
  %description.next = getelementptr i64, ptr %shape, i64 %axes
  br label %each
end:
  ret i1 true
no:
  ret i1 false
}

; By pairs: the second half of the rows to the first, until one is left.
{for real in float double}
define private void @add_rows_of_{real}(ptr %data, i64 %count, i64 %length) {
  br label %again
again:
  %rows = phi i64 [ %count, %0 ], [ %rows.next, %halved ]
  %several = icmp sgt i64 %rows, 1
  br i1 %several, label %halve, label %end
halve:
  %half = lshr i64 %rows, 1
  %addends = mul i64 %half, %length
  %second = getelementptr {real}, ptr %data, i64 %addends
  br label %each
each:
  %place = phi i64 [ 0, %halve ], [ %place.next, %one ]
  %more = icmp slt i64 %place, %addends
  br i1 %more, label %one, label %rest
one:
  %to = getelementptr {real}, ptr %data, i64 %place
  %from = getelementptr {real}, ptr %second, i64 %place
  %before = load {real}, ptr %to
  %addend = load {real}, ptr %from
  %sum = fadd {real} %before, %addend
  store {real} %sum, ptr %to
  %place.next = add i64 %place, 1
  br label %each
rest:
  %odd = and i64 %rows, 1
  %rest.from = getelementptr {real}, ptr %second, i64 %addends
  %rest.count = mul i64 %odd, %length
  %end.at = getelementptr {real}, ptr null, i64 %rest.count
  %bytes = ptrtoint ptr %end.at to i64
  call void @llvm.memmove.p0.p0.i64(ptr %second, ptr %rest.from, i64 %bytes, i1 false)
  br label %halved
halved:
  %rows.next = add i64 %half, %odd
  br label %again
end:
  ret void
}
{end}
; -- a reduced loss ---------------------------------------------------------------------------

; Put the sum of the first output in its place, if the entry asks for it.
define private i1 @total(ptr %header, ptr %entry, ptr %outputs) {
  %item.at = getelementptr %entry, ptr %entry, i64 0, i32 11
  %item = load i64, ptr %item.at
  %divisor.at = getelementptr %entry, ptr %entry, i64 0, i32 12
  %divisor = load double, ptr %divisor.at
  %word.at = getelementptr %entry, ptr %entry, i64 0, i32 15
  %word = load i64, ptr %word.at
  %description = getelementptr i64, ptr %entry, i64 %word
  %dtype = load ptr, ptr %description
  %axes.at = getelementptr %description, ptr %description, i64 0, i32 2
  %axes = load i64, ptr %axes.at
  %shape = getelementptr %description, ptr %description, i64 1
  %needless = fcmp oeq double %divisor, 0.0
  br i1 %needless, label %end, label %count
count:
  %place = phi i64 [ 0, %0 ], [ %place.next, %axis ]
  %values = phi i64 [ 1, %0 ], [ %values.next, %axis ]
  %more.axes = icmp slt i64 %place, %axes
  br i1 %more.axes, label %axis, label %number
axis:
  %size.at = getelementptr i64, ptr %shape, i64 %place
  %size = load i64, ptr %size.at
  %values.next = mul i64 %values, %size
  %place.next = add i64 %place, 1
  br label %count
number:
  %scalar = call ptr @empty(ptr %header, i64 0, ptr null, ptr %dtype)
  %failed = icmp eq ptr %scalar, null
  br i1 %failed, label %no, label %add
add:
  %addends = load ptr, ptr %outputs
  %fields = getelementptr i8, ptr %addends, i64 {head}
  %from = load ptr, ptr %fields
  %scalar.fields = getelementptr i8, ptr %scalar, i64 {head}
  %to = load ptr, ptr %scalar.fields
  %short = icmp eq i64 %item, 4
  br i1 %short, label %floats, label %doubles
floats:
  %sum.wide = call double @sum_of_floats(ptr %from, i64 %values)
  %mean.wide = fdiv double %sum.wide, %divisor
  %mean.short = fptrunc double %mean.wide to float
  store float %mean.short, ptr %to
  br label %replace
doubles:
  %sum = call double @sum_of_doubles(ptr %from, i64 %values)
  %mean = fdiv double %sum, %divisor
  store double %mean, ptr %to
  br label %replace
replace:
  call void @decrease(ptr %header, ptr %addends)
  %return.at = getelementptr %header, ptr %header, i64 0, i32 9
  %return = load ptr, ptr %return.at
  %result = call ptr %return(ptr %scalar)
  store ptr %result, ptr %outputs
  br label %end
end:
  ret i1 true
no:
  ret i1 false
}

; In double precision: rounded once.
define private double @sum_of_floats(ptr %from, i64 %count) {
  %whole = and i64 %count, -8
  br label %eights
eights:
  %at = phi i64 [ 0, %0 ], [ %at.next, %eight ]
  %sums = phi <8 x double> [ zeroinitializer, %0 ], [ %sums.next, %eight ]
  %more = icmp slt i64 %at, %whole
  br i1 %more, label %eight, label %fold
eight:
  %eight.at = getelementptr float, ptr %from, i64 %at
  %short = load <8 x float>, ptr %eight.at, align 4
  %wide = fpext <8 x float> %short to <8 x double>
  %sums.next = fadd <8 x double> %sums, %wide
  %at.next = add i64 %at, 8
  br label %eights
fold:
  %folded = call double @llvm.vector.reduce.fadd.v8f64(double 0.0, <8 x double> %sums)
  br label %ones
ones:
  %place = phi i64 [ %whole, %fold ], [ %place.next, %one ]
  %sum = phi double [ %folded, %fold ], [ %sum.next, %one ]
  %left = icmp slt i64 %place, %count
  br i1 %left, label %one, label %end
one:
  %one.at = getelementptr float, ptr %from, i64 %place
  %float = load float, ptr %one.at
  %double = fpext float %float to double
  %sum.next = fadd double %sum, %double
  %place.next = add i64 %place, 1
  br label %ones
end:
  ret double %sum
}

; With what each addition loses added up beside it: error-free transformation of a sum of two. Eight
; sums side by side, and then those as the rest is.
define private double @sum_of_doubles(ptr %from, i64 %count) {
  %sums.memory = alloca <8 x double>
  %whole = and i64 %count, -8
  br label %eights
eights:
  %at = phi i64 [ 0, %0 ], [ %at.next, %eight ]
  %sums = phi <8 x double> [ zeroinitializer, %0 ], [ %sums.next, %eight ]
  %losts = phi <8 x double> [ zeroinitializer, %0 ], [ %losts.next, %eight ]
  %more = icmp slt i64 %at, %whole
  br i1 %more, label %eight, label %fold
eight:
  %eight.at = getelementptr double, ptr %from, i64 %at
  %eight.values = load <8 x double>, ptr %eight.at, align 8
  %sums.next = fadd <8 x double> %sums, %eight.values
  %eight.added = fsub <8 x double> %sums.next, %sums
  %eight.before = fsub <8 x double> %sums.next, %eight.added
  %eight.of.sums = fsub <8 x double> %sums, %eight.before
  %eight.of.values = fsub <8 x double> %eight.values, %eight.added
  %eight.now = fadd <8 x double> %eight.of.sums, %eight.of.values
  %losts.next = fadd <8 x double> %losts, %eight.now
  %at.next = add i64 %at, 8
  br label %eights
fold:
  store <8 x double> %sums, ptr %sums.memory
  %lost.first = call double @llvm.vector.reduce.fadd.v8f64(double 0.0, <8 x double> %losts)
  ; The eight sums, and then what is left over of the addends.
  br label %each
each:
  %place = phi i64 [ -8, %fold ], [ %place.next, %one ]
  %sum = phi double [ 0.0, %fold ], [ %sum.next, %one ]
  %lost = phi double [ %lost.first, %fold ], [ %lost.next, %one ]
  %end.place = sub i64 %count, %whole
  %left = icmp slt i64 %place, %end.place
  br i1 %left, label %one, label %end
one:
  %of.sums = icmp slt i64 %place, 0
  %sum.number = add i64 %place, 8
  %sum.at = getelementptr double, ptr %sums.memory, i64 %sum.number
  %rest.number = add i64 %place, %whole
  %rest.at = getelementptr double, ptr %from, i64 %rest.number
  %value.at = select i1 %of.sums, ptr %sum.at, ptr %rest.at
  %value = load double, ptr %value.at
  %sum.next = fadd double %sum, %value
  %added = fsub double %sum.next, %sum
  %before = fsub double %sum.next, %added
  %lost.of.sum = fsub double %sum, %before
  %lost.of.value = fsub double %value, %added
  %lost.now = fadd double %lost.of.sum, %lost.of.value
  %lost.next = fadd double %lost, %lost.now
  %place.next = add i64 %place, 1
  br label %each
end:
  %both = fadd double %sum, %lost
  ; Beyond the range what is lost is infinite or NaN: the sum alone is right.
  %finite = fcmp ord double %lost, 0.0
  %nothing = fcmp uno double %both, 0.0
  %kept = select i1 %finite, double %both, double %sum
  %result = select i1 %nothing, double %sum, double %kept
  ret double %result
}

declare double @llvm.vector.reduce.fadd.v8f64(double, <8 x double>)
declare i1 @llvm.vector.reduce.or.v8i1(<8 x i1>)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.memmove.p0.p0.i64(ptr, ptr, i64, i1)
