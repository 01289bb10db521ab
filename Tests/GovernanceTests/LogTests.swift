import Core
import Foundation
import IO
import Synchronization
import TestSupport
import Testing

@testable import Governance

/// Looks, before it signs, whether what it signs would survive the power going now; and remembers what it signed.
final class WatchingSigner: NoteSigner {
  let signer: any NoteSigner
  let files: CrashingFiles
  let signed = Mutex<[TreeHead]>([])
  let faults = Mutex<[String]>([])

  init(_ signer: any NoteSigner, _ files: CrashingFiles) { (self.signer, self.files) = (signer, files) }

  var key: NoteKey { signer.key }

  func sign(_ message: [UInt8]) throws(LogError) -> [UInt8] {
    let head = try TreeHead(text: String(decoding: message, as: UTF8.self))
    do throws(LogError) { try LogReader(CrashingFiles(files.durable), head: head).requireWhole() } catch {
      faults.withLock { $0.append("signed \(head.size) over what isn't durable: \(error.report.summary)") }
    }
    signed.withLock { $0.append(head) }
    return try signer.sign(message)
  }
}

@Suite("Transparency log") struct LogTests {
  static let origin = "bank.example/salvor/0011aabb"
  let keys: LogKeys

  init() throws { keys = try LogKeys(Self.origin) }

  private func log(_ files: any LogFiles) -> TransparencyLog {
    TransparencyLog(files, origin: Self.origin, keys: keys.keys)
  }

  /// Brings a log to `size` with ``leaves(_:)``, or others that are called so.
  @discardableResult
  private func grow(
    _ files: any LogFiles, to size: Int, _ all: [[UInt8]]? = nil, signers: [any NoteSigner]? = nil
  ) throws -> Checkpoint? {
    let all = all ?? leaves(size)
    return try log(files).append(signedBy: signers ?? keys.signers) { reader in
      Array(all[min(Int(reader.head.size), size)..<size])
    }
  }

  @Test func `what is appended in any steps is the naive tree, and can be proved`() throws {
    let all = leaves(600)
    let files = CrashingFiles()
    let cheap = Array(keys.signers.prefix(1))
    let log = TransparencyLog(files, origin: Self.origin, keys: [keys.keys[0]])
    #expect(try log.checkpoint() == nil)
    for size in [0, 1, 2, 3, 7, 200, 255, 256, 257, 258, 300, 511, 512, 513, 600] {
      let checkpoint = try log.append(signedBy: cheap) { reader in Array(all[Int(reader.head.size)..<size]) }
      guard size > 0 else { continue }
      #expect(checkpoint?.head == TreeHead(origin: Self.origin, size: Int64(size), root: naiveRoot(all[..<size])))
      let reader = log.reader(of: try #require(try log.checkpoint()).head)
      try reader.requireWhole()
      for index in Set([0, size / 2, size - 1]) {
        #expect(try reader.entry(Int64(index)) == all[index])
        _ = try reader.inclusion(of: Int64(index))
      }
      for old in [0, 1, size / 3, size - 1, size] where old <= size {
        #expect(
          MerkleTree.isConsistent(
            from: Int64(old), naiveRoot(all[..<old]), to: Int64(size), reader.head.root,
            try reader.consistency(from: Int64(old))))
      }
    }
    // Files of less than 256 go once there is a whole one.
    #expect(!files.paths.contains { $0.hasPrefix("tile/0/000.p/") })
    #expect(files.paths.contains("tile/1/000.p/2") && files.paths.contains("tile/0/002.p/88"))
  }

  /// Every call of appends across the edge of a file, each with the call done and not done, and with four disks after it.
  @Test(.timeLimit(.minutes(10)), arguments: [0, 254])
  func `a crash at any call loses nothing that was signed, and signs nothing that could be lost`(_ start: Int) throws {
    let cheap = keys.signers[0]
    let log = { (files: CrashingFiles) in TransparencyLog(files, origin: Self.origin, keys: [cheap.key]) }
    let all = leaves(start + 5)
    // Whoever comes after the crash may bring something else, as after a journal was lost.
    let others = all[..<start] + (0..<9).map { Array("other \($0)".utf8) }
    let before = CrashingFiles()
    if start > 0 {
      try _ = log(before).append(signedBy: [cheap]) { reader in Array(all[Int(reader.head.size)..<start]) }
    }
    var call = 0
    var reached = 0
    while true {
      call += 1
      var isOver = false
      for isDone in [false, true] {
        for mode in 0..<4 {
          let files = CrashingFiles(before.seen, crashesAt: call, after: isDone)
          let first = WatchingSigner(cheap, files)
          // Two appends, so that the second begins on what the first left.
          for size in [start + 2, start + 5] {
            _ = try? log(files).append(signedBy: [first]) { reader in
              Array(all[min(Int(reader.head.size), size)..<size])
            }
          }
          #expect(first.faults.withLock { $0 } == [])
          guard files.isDown else {
            isOver = true
            break
          }
          reached = call
          let disk =
            switch mode {
            case 0: files.seen
            case 1: files.durable
            default: files.torn(SeededRandomness(seed: UInt64(call * 10 + mode)))
            }
          let after = CrashingFiles(disk)
          let second = WatchingSigner(cheap, after)
          let brought = mode % 2 == 0 ? all : Array(others)
          let known = first.signed.withLock { $0 }.map(\.size).max() ?? Int64(start)
          let checkpoint = try log(after).append(signedBy: [second]) { reader in
            Array(brought[min(Int(reader.head.size), brought.count)...])
          }
          #expect(second.faults.withLock { $0 } == [])
          let head = try #require(checkpoint).head
          let reader = log(after).reader(of: head)
          try reader.requireWhole()
          #expect(head.size >= known, "call \(call): what was signed is there")
          // No fork: every head that was ever signed is one of this list.
          let content = try reader.entries(0..<head.size)
          for signed in first.signed.withLock({ $0 }) + second.signed.withLock({ $0 }) {
            #expect(
              naiveRoot(content[..<Int(signed.size)]) == signed.root, "call \(call), \(isDone), \(mode): \(signed.size)"
            )
          }
        }
      }
      if isOver { break }
    }
    #expect(reached > 40, "calls were reached: \(reached)")
  }

  @Test func `every byte of every file changed is refused, and every file missing or cut short`() throws {
    let files = CrashingFiles()
    try grow(files, to: 20)
    func isRefused() -> Bool {
      do {
        guard let checkpoint = try log(files).checkpoint() else { return true }
        try log(files).reader(of: checkpoint.head).requireWhole()
        return checkpoint.head.size != 20
      } catch { return true }
    }
    #expect(!isRefused())
    #expect(files.paths == ["checkpoint", "tile/0/000.p/20", "tile/entries/000.p/20"])
    for path in files.paths {
      let good = files.content(path)
      // The checkpoint's own bytes, every one of them, are another test's.
      for place in good.indices where path != "checkpoint" || place % 16 == 0 {
        var changed = good
        changed[place] ^= UInt8(1) << UInt8(place % 8)
        files.plant(path, changed)
        #expect(isRefused(), "\(path), byte \(place)")
        if place % 8 == 0 {
          files.plant(path, Array(good[..<place]))
          #expect(isRefused(), "\(path), cut at \(place)")
        }
      }
      files.plant(path, good)
      let missing = CrashingFiles(files.seen)
      missing.plant(path, nil)
      #expect(throws: LogError.self, "\(path) is missing") {
        guard let checkpoint = try log(missing).checkpoint() else { throw LogError.notLogged("") }
        try log(missing).reader(of: checkpoint.head).requireWhole()
      }
    }
  }

  @Test func `a hash changed in any file of a larger log is refused, and nothing is signed over it`() throws {
    let files = CrashingFiles()
    try grow(files, to: 300)
    let head = try #require(try log(files).checkpoint()).head
    for path in files.paths where path != "checkpoint" {
      let good = files.content(path)
      for place in stride(from: 0, to: good.count, by: path.contains("entries") ? 333 : 96) {
        var changed = good
        changed[place] ^= 4
        files.plant(path, changed)
        #expect(throws: LogError.self, "\(path), byte \(place)") { try log(files).reader(of: head).requireWhole() }
      }
      files.plant(path, good)
    }
    // At the right edge it is seen before anything is added.
    var edge = files.content("tile/0/001.p/44")
    edge[5] ^= 1
    files.plant("tile/0/001.p/44", edge)
    #expect(throws: LogError.self) { try grow(files, to: 301) }
    #expect(try log(files).checkpoint()?.head == head)
  }

  @Test func `a fork shown to two witnesses, or to one, is found`() throws {
    let (a, b) = (CrashingFiles(), CrashingFiles())
    try grow(a, to: 10)
    try grow(b, to: 7)
    let common = try #require(try log(b).checkpoint())
    // From seven on the holder of the key tells two stories.
    try grow(b, to: 12, leaves(7) + (0..<5).map { Array("forged \($0)".utf8) })
    let (left, right) = (Witness(CrashingFiles()), Witness(CrashingFiles()))
    func request(_ files: CrashingFiles, from old: Int64) throws -> WitnessRequest {
      let checkpoint = try #require(try log(files).checkpoint())
      return WitnessRequest(
        old: old, proof: try log(files).reader(of: checkpoint.head).consistency(from: old),
        checkpoint: checkpoint.encoded)
    }
    let first = WitnessRequest(old: 0, proof: [], checkpoint: common.encoded)
    for witness in [left, right] { _ = try witness.observe(first, trusting: keys.keys) }
    // Each is content with what it is shown, for each story goes on from seven.
    _ = try left.observe(try request(a, from: 7), trusting: keys.keys)
    _ = try right.observe(try request(b, from: 7), trusting: keys.keys)
    // Once they talk to each other, there is no proof that would fit.
    let l = try #require(try left.seen(Self.origin))
    #expect(throws: LogError.fork(origin: Self.origin, oldSize: 10, newSize: 12)) {
      _ = try left.observe(try request(b, from: 10), trusting: keys.keys)
    }
    #expect(try left.seen(Self.origin) == l, "what was seen stays")
    #expect(throws: LogError.wentBack(origin: Self.origin, seen: 12, found: 10)) {
      _ = try right.observe(
        WitnessRequest(old: 10, proof: [], checkpoint: try #require(try log(a).checkpoint()).encoded),
        trusting: keys.keys)
    }
    #expect(throws: LogError.witnessBehind(seen: 12, offered: 7)) {
      _ = try right.observe(try request(b, from: 7), trusting: keys.keys)
    }
    // Same size, another root.
    let same = CrashingFiles()
    try grow(same, to: 10, (0..<10).map { Array("forged \($0)".utf8) })
    #expect(throws: LogError.fork(origin: Self.origin, oldSize: 10, newSize: 10)) {
      _ = try left.observe(try request(same, from: 10), trusting: keys.keys)
    }
    #expect(throws: LogError.self) {
      _ = try left.observe(try request(a, from: 10), trusting: try LogKeys(Self.origin, seed: 9).keys)
    }
    let again = try WitnessRequest(try request(a, from: 7).encoded)
    #expect(again == (try request(a, from: 7)))
    let bytes = again.encoded
    for place in stride(from: 0, to: bytes.count, by: 13) {
      var changed = bytes
      changed[place] ^= 1
      let fresh = Witness(CrashingFiles())
      _ = try fresh.observe(first, trusting: keys.keys)
      #expect(throws: LogError.self, "byte \(place)") {
        _ = try fresh.observe(try WitnessRequest(changed), trusting: keys.keys)
      }
    }
  }

  @Test func `keys are changed without a break`() throws {
    let files = CrashingFiles()
    try grow(files, to: 3)
    let new = try LogKeys(Self.origin, seed: 21)
    let both = TransparencyLog(files, origin: Self.origin, keys: keys.keys + new.keys)
    let handover = try #require(try both.sign(with: keys.signers + new.signers))
    // Who knows either sees the same tree.
    #expect(try Checkpoint(handover.encoded, trusting: keys.keys).head == handover.head)
    #expect(try Checkpoint(handover.encoded, trusting: new.keys).head == handover.head)
    let all = leaves(4)
    _ = try both.append(signedBy: new.signers) { Array(all[Int($0.head.size)...]) }
    #expect(try both.checkpoint()?.head.size == 4)
    #expect(throws: LogError.self) { _ = try log(files).checkpoint() }
  }

  @Test(.timeLimit(.minutes(10))) func `in a real directory, by many at once, each entry is there once`() async throws {
    let place = try TemporaryDirectory("log")
    let directory = LogDirectory(place.file("log"))
    let (cheap, keys) = (keys.signers[0], [keys.keys[0]])
    try await withThrowingTaskGroup(of: Void.self) { group in
      for worker in 0..<4 {
        group.addTask {
          for number in 0..<6 {
            var isDone = false
            _ = try TransparencyLog(directory, origin: Self.origin, keys: keys).append(signedBy: [cheap]) { _ in
              defer { isDone = true }
              return isDone ? [] : [Array("\(worker)/\(number)".utf8)]
            }
          }
        }
      }
      try await group.waitForAll()
    }
    let log = TransparencyLog(directory, origin: Self.origin, keys: keys)
    let reader = log.reader(of: try #require(try log.checkpoint()).head)
    try reader.requireWhole()
    let entries = try reader.entries(0..<reader.head.size).map { String(decoding: $0, as: UTF8.self) }
    #expect(entries.sorted() == (0..<4).flatMap { worker in (0..<6).map { "\(worker)/\($0)" } }.sorted())
    #expect(throws: LogError.self) {
      _ = try log.append(signedBy: [cheap]) { _ in [[UInt8](repeating: 0, count: 65_536)] }
    }
  }
}
