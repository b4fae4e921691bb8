; What x86-64 does its own way, for threads.ll: a pause of the CPU, and its floating-point modes.

declare void @llvm.x86.sse2.pause()
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)

define internal void @relax() {
  call void @llvm.x86.sse2.pause()
  ret void
}

define internal i64 @modes() {
  %place = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %place)
  %short = load i32, ptr %place
  %modes = zext i32 %short to i64
  ret i64 %modes
}

define internal void @adopt(i64 %modes) {
  %place = alloca i32
  %short = trunc i64 %modes to i32
  store i32 %short, ptr %place
  call void @llvm.x86.sse.ldmxcsr(ptr %place)
  ret void
}
