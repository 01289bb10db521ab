import Core
import IO
import Testing

#if canImport(Glibc)
  import Glibc
#endif

@Suite("The process's memory") struct ProcessMemoryTests {
  /// Blocks that lie between others stay with the process when they are freed, until it is told to give them back.
  @Test func `what is free goes back, once an interval`() throws {
    let blocks = (0..<4000).map { _ -> UnsafeMutableRawPointer in
      let block = malloc(100_000)!
      memset(block, 1, 100_000)
      return block
    }
    let before = try residentBytes()
    for (index, block) in blocks.enumerated() where index % 100 != 99 { free(block) }
    defer { for (index, block) in blocks.enumerated() where index % 100 == 99 { free(block) } }
    let now = Int64.max / 2
    // Whoever asked last, it was long ago.
    _ = ProcessMemory.returnUnused(at: now)
    _ = ProcessMemory.returnUnused(at: now + ProcessMemory.interval)
    let after = try residentBytes()
    #expect(after < before - 100_000_000, "\(before) bytes before, \(after) after")
  }

  private func residentBytes() throws -> Int {
    let text = String(decoding: try Files.read("/proc/self/statm", limitBytes: 4096), as: UTF8.self)
    return try #require(text.split(separator: " ").dropFirst().first.flatMap { Int($0) }) * 4096
  }
}
