import Core
import DriverKit
import IO
import TestSupport
import Testing

@Suite("What is kept before it is undone") struct KeptCopiesTests {
  @Test func `the newest copies stay, and halves of copies go`() async throws {
    let place = try TemporaryDirectory("kept")
    let data = place.file("data")
    try Files.createDirectory(data)
    try Files.createDirectory(place.file("data.kept-1.part"))
    let copies = KeptCopies(of: data, limit: 2)
    for number in 1...3 {
      try Files.replace(data + "/value", with: [UInt8(number)])
      try await copies.keep(at: Timestamp(seconds: Int64(number) * 1000, nanoseconds: 0), on: .shared)
    }
    let kept = try copies.all()
    #expect(try kept.map { try Files.read($0 + "/value") } == [[2], [3]])
    #expect(!Files.exists(place.file("data.kept-1.part")))
  }

  @Test func `what a member was is read as it was written`() throws {
    let place = try TemporaryDirectory("memory")
    let data = place.file("data")
    #expect(try MemberMemory.read(data) == MemberMemory())
    var memory = MemberMemory()
    (memory.role, memory.following, memory.lineage) = (.standby, "a", 7)
    try memory.write(data)
    #expect(try MemberMemory.read(data) == memory)
    try Files.replace(MemberMemory.path(data), with: Array("{".utf8))
    #expect(throws: DriverError.self) { try MemberMemory.read(data) }
  }
}
