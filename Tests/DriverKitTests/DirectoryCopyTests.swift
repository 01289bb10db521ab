import Core
import DriverKit
import Glibc
import IO
import TestSupport
import Testing

@Suite("A directory copied ahead") struct DirectoryCopyTests {
  /// As programs do that keep a file's time, and as a change does that comes within one tick of the file system's clock.
  @Test func `what is written in place, with its size and its time kept, is copied again`() throws {
    let place = try TemporaryDirectory("copy")
    let (from, to) = (place.file("from"), place.file("to"))
    try Files.createDirectory(from)
    for name in ["one", "late"] { try Files.replace("\(from)/\(name)", with: Array("before".utf8)) }
    // A time that has not come yet makes no other file old.
    try Self.setTime(of: "\(from)/late", 4_000_000_000)
    try Self.setTime(of: "\(from)/one", 1_000_000_000)
    var copy = DirectoryCopy(from: from, to: to)
    try copy.bringUpToDate(isStill: false)
    let file = try File("\(from)/one", O_WRONLY)
    try Array("behind".utf8).withUnsafeBytes { try file.write($0) }
    try Self.setTime(of: "\(from)/one", 1_000_000_000)
    try copy.bringUpToDate(isStill: true)
    #expect(try Files.read("\(to)/one") == Array("behind".utf8))
  }

  private static func setTime(of path: String, _ seconds: Int) throws {
    var times = [timespec(tv_sec: seconds, tv_nsec: 0), timespec(tv_sec: seconds, tv_nsec: 0)]
    guard utimensat(AT_FDCWD, path, &times, 0) == 0 else { throw SystemFailure("utimensat", path: path) }
  }
}
