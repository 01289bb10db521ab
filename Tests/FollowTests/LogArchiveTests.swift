import Core
import DriverKit
import IO
import ObjectStoreFaulty
import ObjectStoreMemory
import Synchronization
import TestSupport
import Testing
import Vault

@testable import Recovery

/// Short waits are over at once.
struct ImpatientTime: Timekeeper {
  private let base = SystemTime()
  func now() -> Timestamp { base.now() }
  func monotonicNanoseconds() -> Int64 { base.monotonicNanoseconds() }
  func sleep(for duration: Duration) async throws {
    if duration > .seconds(60) { try await Task.sleep(for: duration) } else { await Task.yield() }
  }
}

/// A log of files of a thousand bytes, each byte known by its place.
struct SampleLog {
  static let fileBytes: Int64 = 1000

  static func byte(_ place: Int64) -> UInt8 { UInt8(truncatingIfNeeded: place &* 31 ^ place >> 7) }

  static func file(_ place: Int64) -> String { "f\(100_000 + place / fileBytes)" }

  static func cursor(_ place: Int64) -> LogCursor {
    place > 0 && place % fileBytes == 0
      ? LogCursor(file(place - 1), fileBytes) : LogCursor(file(place), place % fileBytes)
  }

  static func position(_ place: Int64) -> LogPosition { LogPosition(kind: "offset", value: String(place)) }

  static func place(_ end: LogEnd?) -> Int64 { end.flatMap { Int64($0.position.value) } ?? 0 }

  /// Appends what comes next, and begins where there is nothing.
  static func append(_ count: Int64, to buffer: LogBuffer) throws {
    if buffer.end == nil {
      buffer.begin(LogBeginning(stream: "sample", cursor: cursor(0), position: position(0), why: nil))
    }
    try append(count, from: place(buffer.end), to: buffer)
  }

  static func append(_ count: Int64, from start: Int64, to buffer: any LogSink) throws(DriverError) {
    var place = start
    let end = place + count
    while place < end {
      let next = min(end, (place / fileBytes + 1) * fileBytes)
      try buffer.append(
        LogChunk(
          file: file(place), offset: place % fileBytes, bytes: (place..<next).map(byte),
          follows: place > 0 && place % fileBytes == 0 ? cursor(place) : nil, mark: LogMark(position: position(next))))
      place = next
    }
  }
}

private final class Shared<Value: Sendable>: Sendable {
  private let state: Mutex<Value>
  init(_ value: Value) { state = Mutex(value) }
  var value: Value { state.withLock { $0 } }
  func withLock<T: Sendable>(_ body: @Sendable (inout Value) -> T) -> T {
    state.withLock { value in
      let result = body(&value)
      return result
    }
  }
}

/// A log that one follower has at a time, as a replication slot would have it.
private struct SharedFollower: LogFollower {
  let name: String
  let owner: Shared<String?>

  func follow(from end: LogEnd?, hint: LogCursor?, into sink: any LogSink) async throws(DriverError) {
    let isMine = owner.withLock { owner in
      if owner == nil { owner = name }
      return owner == name
    }
    guard isMine else { throw .unreachable("another has it") }
    defer { owner.withLock { $0 = nil } }
    if end == nil {
      sink.begin(
        LogBeginning(stream: "sample", cursor: SampleLog.cursor(0), position: SampleLog.position(0), why: nil))
    }
    var place = SampleLog.place(end)
    while !Task.isCancelled {
      if sink.hasRoom {
        try SampleLog.append(150, from: place, to: sink)
        place += 150
      }
      do { try await SystemTime().sleep(for: .milliseconds(10)) } catch { break }
    }
    throw .cancelled
  }

  func cursor(of position: LogPosition, in capture: CaptureResult, among files: [String]) -> LogCursor? { nil }
}

/// A backlog: all there is room for, at once, up to a place.
private struct EagerFollower: LogFollower {
  let until: Int64

  func follow(from end: LogEnd?, hint: LogCursor?, into sink: any LogSink) async throws(DriverError) {
    if end == nil {
      sink.begin(
        LogBeginning(stream: "sample", cursor: SampleLog.cursor(0), position: SampleLog.position(0), why: nil))
    }
    var place = SampleLog.place(end)
    while !Task.isCancelled {
      if place < until, sink.hasRoom {
        let count = min(350, until - place)
        try SampleLog.append(count, from: place, to: sink)
        place += count
      } else {
        do { try await SystemTime().sleep(for: .milliseconds(1)) } catch { break }
      }
    }
    throw .cancelled
  }

  func cursor(of position: LogPosition, in capture: CaptureResult, among files: [String]) -> LogCursor? { nil }
}

@Suite("The archive of a log") struct LogArchiveTests {
  private static let password = Secret("correct horse")

  private static func settings() -> VaultSettings {
    var settings = VaultSettings()
    settings.scrypt = ScryptParameters(n: 16, r: 1, p: 1)
    settings.packTargetBytes = 40_000
    settings.time = ImpatientTime()
    return settings
  }

  private static func archive(_ store: any ObjectStore) async throws -> LogArchive {
    let vault = try await Repository.open(store: store, password: password, settings: settings())
    return LogArchive(vault: vault, store: "shop-db", pool: .shared)
  }

  /// Takes up the log where it ends, goes on with it in stretches, and joins them in between.
  ///
  /// - Returns: The last place that was acknowledged.
  private static func live(_ archive: LogArchive, acknowledged: (Int64) -> Void) async throws {
    let listing = try await archive.list()
    let time = ImpatientTime()
    let buffer = LogBuffer(
      end: listing.chains.last?.end, next: (listing.spans.map(\.span.numbers.upperBound).max() ?? 0) + 1, time: time,
      limitBytes: 1 << 20)
    for round in 0..<3 {
      for size in [700, 900, 1700] as [Int64] {
        try SampleLog.append(size + Int64(round), to: buffer)
        for draft in buffer.take() {
          _ = try await archive.save(draft, number: buffer.next, driver: "files", host: "here")
          buffer.saved(draft)
        }
        acknowledged(SampleLog.place(buffer.end))
      }
      let spans = try await archive.list().chains.last?.spans.suffix(2) ?? []
      if spans.count == 2 { _ = try await archive.join(Array(spans)) }
    }
    try await archive.removeJoined(among: try await archive.list().spans)
  }

  /// The whole log, read as a restore reads it, from the first byte to the last.
  private static func read(_ archive: LogArchive, _ chain: LogChain) async throws -> [UInt8] {
    let log = ArchivedLog(from: chain.first.after, through: chain.end.cursor) { () async throws(AnyFailure) in archive }
    let collected = Collector()
    for extent in try await log.extents() {
      try await log.read(extent) { offset, bytes in await collected.put(extent.file, offset, bytes) }
    }
    return await collected.bytes
  }

  private actor Collector {
    private var files: [String: [UInt8]] = [:]
    func put(_ file: String, _ offset: Int64, _ bytes: [UInt8]) {
      var content = files[file] ?? []
      if content.count < Int(offset) + bytes.count {
        content += [UInt8](repeating: 0, count: Int(offset) + bytes.count - content.count)
      }
      content.replaceSubrange(Int(offset)..<Int(offset) + bytes.count, with: bytes)
      files[file] = content
    }
    var bytes: [UInt8] { files.sorted { $0.key < $1.key }.flatMap(\.value) }
  }

  @Test(.timeLimit(.minutes(5)), arguments: [Fault.crashBefore, .crashAfter])
  func `a crash at any operation leaves a log without a gap, up to what was acknowledged`(_ fault: Fault) async throws {
    let base = MemoryObjectStore()
    let repository = try await Repository.create(store: base, password: Self.password, settings: Self.settings())
    _ = repository
    var (number, crashes) = (0, 0)
    while true {
      number += 1
      let memory = MemoryObjectStore(contents: base.contents)
      let faulty = FaultyObjectStore(memory, .at(number, fault))
      var acknowledged: Int64 = 0
      do { try await Self.live(try await Self.archive(faulty)) { acknowledged = $0 } } catch {}
      // What survives is looked at by a process that knows nothing.
      let survivor = MemoryObjectStore(contents: memory.contents)
      for life in 1...2 {
        let archive = try await Self.archive(survivor)
        let listing = try await archive.list()
        #expect(listing.unreadable.isEmpty, "call \(number)")
        let chains = listing.chains
        #expect(chains.count <= 1, "call \(number), life \(life): \(chains.compactMap(\.gap))")
        if let chain = chains.first {
          #expect(SampleLog.place(chain.end) >= acknowledged, "call \(number), life \(life)")
          let bytes = try await Self.read(archive, chain)
          #expect(bytes == (0..<SampleLog.place(chain.end)).map(SampleLog.byte), "call \(number), life \(life)")
        } else {
          #expect(acknowledged == 0, "call \(number)")
        }
        // The next life goes on where this one ended.
        if life == 1 { try await Self.live(archive) { acknowledged = $0 } }
      }
      let report = try await Repository.open(store: survivor, password: Self.password, settings: Self.settings())
        .check(readData: true)
      #expect(report.isSound, "call \(number): \(report.damage.map(\.report))")
      guard faulty.hasCrashed else { break }
      crashes += 1
    }
    #expect(crashes > 60, "there is that much to interrupt: \(crashes)")
  }

  /// Behind, a keeper takes the next stretch's content while the one before becomes durable.
  @Test(
    .timeLimit(.minutes(10)),
    arguments: [
      Fault.crashBefore, .crashAfter, .failure(.unavailable("busy")), .lostAnswer(.unavailable("the line went dead")),
    ])
  func `a backlog that is cut off anywhere leaves a log without a gap`(_ fault: Fault) async throws {
    let base = MemoryObjectStore()
    _ = try await Repository.create(store: base, password: Self.password, settings: Self.settings())
    var options = LogKeeper.Options()
    (options.spanBytes, options.bufferBytes) = (1000, 4000)
    (options.within, options.pauses) = (.milliseconds(20), (.milliseconds(1), .milliseconds(5)))
    let chosen = options
    let whole: Int64 = 9_000
    var (number, faults, longest) = (0, 0, 0)
    while true {
      number += 1
      let memory = MemoryObjectStore(contents: base.contents)
      let faulty = FaultyObjectStore(memory, .at(number, fault))
      let (acknowledged, stop) = (Shared<Int64>(0), LogKeeper.Stop())
      do {
        let keeper = LogKeeper(
          archive: try await Self.archive(faulty), follower: EagerFollower(until: whole), driver: "files",
          host: "here", time: SystemTime(), options: chosen)
        try await keeper.run(until: stop) { news in
          switch news {
          case .saved(let span, _):
            acknowledged.withLock { $0 = SampleLog.place(LogEnd(stream: "", cursor: span.end, position: span.to)) }
            if acknowledged.value == whole { stop.come() }
          // The last answer may have been the one that was lost.
          case .following(let position?): if position == SampleLog.position(whole) { stop.come() }
          case .trouble: if faulty.hasCrashed { stop.come() }
          default: break
          }
        }
      } catch { #expect(faulty.hasCrashed || acknowledged.value == 0, "call \(number): \(error)") }
      let archive = try await Self.archive(MemoryObjectStore(contents: memory.contents))
      let listing = try await archive.list()
      #expect(listing.unreadable.isEmpty, "call \(number)")
      #expect(listing.chains.count <= 1, "call \(number): \(listing.chains.compactMap(\.gap))")
      if let chain = listing.chains.first {
        longest = max(longest, chain.spans.count)
        let end = SampleLog.place(chain.end)
        #expect(end >= acknowledged.value, "call \(number)")
        #expect(end == whole || faulty.hasCrashed, "call \(number)")
        let bytes = try await Self.read(archive, chain)
        #expect(bytes == (0..<end).map(SampleLog.byte), "call \(number)")
      } else {
        #expect(acknowledged.value == 0, "call \(number)")
      }
      guard faulty.calls >= number else { break }
      faults += 1
    }
    #expect(faults > 20, "there is that much to interrupt: \(faults)")
    #expect(longest > 2, "stretches came one after the other")
  }

  /// Both looked where the log ends before either had written.
  @Test(.timeLimit(.minutes(10))) func `who waited for a log goes on where the other one ended`() async throws {
    let store = MemoryObjectStore()
    _ = try await Repository.create(store: store, password: Self.password, settings: Self.settings())
    let owner = Shared<String?>(nil)
    let saved = Shared<[String: Int64]>([:])
    let stops = ["first": LogKeeper.Stop(), "second": LogKeeper.Stop()]
    var options = LogKeeper.Options()
    (options.within, options.pauses) = (.milliseconds(40), (.milliseconds(10), .milliseconds(50)))
    let chosen = options
    try await withThrowingTaskGroup(of: Void.self) { group in
      for (name, stop) in stops {
        group.addTask {
          let keeper = LogKeeper(
            archive: try await Self.archive(store), follower: SharedFollower(name: name, owner: owner), driver: "files",
            host: "here", time: SystemTime(), options: chosen)
          try await keeper.run(until: stop) { news in
            guard case .saved(let span, _) = news else { return }
            saved.withLock { $0[name] = SampleLog.place(LogEnd(stream: "", cursor: span.end, position: span.to)) }
          }
        }
      }
      func wait(_ isTrue: () -> Bool) async throws {
        while !isTrue() { try await SystemTime().sleep(for: .milliseconds(20)) }
      }
      try await wait { saved.value.values.contains { $0 > 1500 } }
      let first = try #require(saved.value.keys.first)
      #expect(saved.value.count == 1, "the other one waits")
      stops[first]?.come()
      let end = saved.value[first] ?? 0
      try await wait { saved.value.contains { $0.key != first && $0.value > end + 600 } }
      stops.values.forEach { $0.come() }
      try await group.waitForAll()
    }
    let archive = try await Self.archive(store)
    let chains = try await archive.list().chains
    #expect(
      chains.count == 1,
      "\(chains.flatMap(\.spans).map { "\($0.span.numbers): \($0.span.from.value) to \($0.span.to.value)" })")
    let chain = try #require(chains.last)
    let last = SampleLog.place(chain.end)
    #expect(last == saved.value.values.max(), "nothing that was acknowledged is outside the chain")
    #expect(try await Self.read(archive, chain) == (0..<last).map(SampleLog.byte))
  }

  @Test func `bytes that do not go on where the log ends are refused`() throws {
    let buffer = LogBuffer(end: nil, time: ImpatientTime(), limitBytes: 1 << 20)
    let mark = LogMark(position: SampleLog.position(1))
    #expect(throws: DriverError.self) { try buffer.append(LogChunk(file: "a", offset: 0, bytes: [1], mark: mark)) }
    try SampleLog.append(1500, to: buffer)
    let end = try #require(buffer.end)
    for (file, offset, follows) in [
      (SampleLog.file(1500), 499, nil), (SampleLog.file(1500), 501, nil), ("g", 0, nil),
      ("g", 0, SampleLog.cursor(1499)),
      ("g", 1, end.cursor), (SampleLog.file(1500), 0, end.cursor),
    ] as [(String, Int64, LogCursor?)] {
      #expect(throws: DriverError.self, "\(file)+\(offset)") {
        try buffer.append(LogChunk(file: file, offset: offset, bytes: [1], follows: follows, mark: mark))
      }
    }
    #expect(buffer.end == end)
    try buffer.append(LogChunk(file: "g", offset: 0, bytes: [1], follows: end.cursor, mark: mark))
  }

  // MARK: Values

  static func span(
    _ numbers: ClosedRange<Int64>, _ from: Int64, _ to: Int64, at seconds: Int64 = 0, beginning why: String?? = .none
  ) -> StoredSpan {
    let beginning = why.map {
      LogBeginning(
        stream: "sample", cursor: SampleLog.cursor(from), position: SampleLog.position(from), why: $0)
    }
    var extents: [LogExtent] = []
    var place = from
    while place < to {
      let next = min(to, (place / SampleLog.fileBytes + 1) * SampleLog.fileBytes)
      extents.append(
        LogExtent(
          SampleLog.file(place), from: place % SampleLog.fileBytes, to: (next - 1) % SampleLog.fileBytes + 1,
          follows: place > 0 && place % SampleLog.fileBytes == 0 ? SampleLog.cursor(place) : nil))
      place = next
    }
    let span = LogSpan(
      store: "shop-db", driver: "files", host: "here", numbers: numbers, beginning: beginning, stream: "sample",
      after: SampleLog.cursor(from), end: SampleLog.cursor(to), from: SampleLog.position(from),
      to: SampleLog.position(to), extents: extents, attachments: [], firstCommit: nil, lastCommit: nil,
      completeUntil: Timestamp(seconds: seconds), receivedFrom: Timestamp(seconds: seconds),
      receivedTo: Timestamp(seconds: seconds))
    return StoredSpan(snapshot: .of("\(numbers)"), tree: .of("tree"), span: span)
  }

  @Test func `stretches that are missing, or do not fit, are gaps with a name`() throws {
    let all = [
      Self.span(1...1, 0, 900, beginning: .some(nil)), Self.span(2...2, 900, 1800), Self.span(3...3, 1800, 2000),
      Self.span(4...4, 2000, 2500),
    ]
    #expect(chains(of: all.shuffled()).count == 1)
    #expect(chains(of: all)[0].end.cursor == SampleLog.cursor(2500))
    var without = all
    without.remove(at: 1)
    let broken = chains(of: without)
    try #require(broken.count == 2)
    #expect(broken[1].gap?.why.contains("stretches 2 to 2") == true)
    #expect(broken[1].gap?.after == SampleLog.position(900) && broken[1].gap?.before == SampleLog.position(1800))
    // Joined, and what was joined not yet removed.
    let joined = StoredSpan(snapshot: .of("j"), tree: .of("t"), span: all[0].span.joined(with: all[1].span))
    #expect(joined.span.isWhole)
    #expect(chains(of: all + [joined]).count == 1)
    #expect(chains(of: all + [joined])[0].spans.map(\.snapshot) == [joined, all[2], all[3]].map(\.snapshot))
    let elsewhere = chains(of: [all[0], Self.span(2...2, 950, 1800)])
    #expect(elsewhere.count == 2 && elsewhere.last?.gap?.why.contains("goes on at") == true)
    let anew = chains(of: [all[0], Self.span(2...2, 1200, 1800, beginning: .some("the slot was gone"))])
    #expect(anew.count == 2 && anew.last?.gap?.why == "the slot was gone")
  }

  @Test func `a clock that was ahead and was put right promises nothing for the time it was ahead`() throws {
    var spans = [
      Self.span(1...1, 0, 900, beginning: .some(nil)), Self.span(2...2, 900, 1800), Self.span(3...3, 1800, 2000),
    ]
    spans[1].span.completeUntil = Timestamp(seconds: 9_999_999)
    spans[2].span.completeUntil = Timestamp(seconds: 1000)
    #expect(chains(of: spans)[0].completeUntil == Timestamp(seconds: 1000))
    let joined = spans[0].span.joined(with: spans[1].span).joined(with: spans[2].span)
    #expect(joined.completeUntil == Timestamp(seconds: 1000))
    spans[2].span.completeUntil = nil
    #expect(spans[1].span.joined(with: spans[2].span).completeUntil == Timestamp(seconds: 9_999_999))
  }

  @Test func `the end of a log comes with its last bytes, in memory and from the repository`() throws {
    let buffer = LogBuffer(end: nil, time: SystemTime(), limitBytes: 1 << 20)
    try SampleLog.append(2500, to: buffer)
    // The third file has five hundred bytes.
    #expect(buffer.end?.tail == (2000..<2500).map { SampleLog.byte($0) })
  }

  @Test func `a copy reaches to the end of the log that goes on from its mark, and no further`() throws {
    let first = [Self.span(1...1, 500, 900, at: 10, beginning: .some(nil)), Self.span(2...2, 900, 1800, at: 20)]
    let second = [Self.span(3...3, 3000, 3500, at: 40, beginning: .some("lost"))]
    let chains = chains(of: first + second)
    func base(_ place: Int64, _ seconds: Int64) throws -> LogBase {
      LogBase(
        point: PointID(time: Timestamp(seconds: seconds), group: "g", catalog: .of(""), marks: [:]),
        time: Timestamp(seconds: seconds), position: SampleLog.position(place), cursor: SampleLog.cursor(place))
    }
    let coverage = coverage(of: try [base(100, 1), base(700, 12), base(2000, 30)], chains)
    #expect(coverage.reaches.map(\.toTime.nanoseconds) == [1, 20, 30].map { $0 * 1_000_000_000 })
    #expect(coverage.reaches.map(\.logBytes) == [0, 1100, 0])
    #expect(coverage.gaps.map(\.why) == ["lost"])
    #expect(coverage.unbased.map(\.from) == [SampleLog.position(3000)])
    let later = Recovery.coverage(of: try [base(3000, 35), base(3500, 39)], chains)
    #expect(later.reaches.map(\.logBytes) == [500, 0])
    #expect(later.unbased.map(\.from) == [SampleLog.position(500)])
  }

  @Test func `stretches are joined once their minute, hour or day has passed, and not before`() throws {
    var spans: [StoredSpan] = []
    for number in 1...200 as ClosedRange<Int64> {
      spans.append(
        Self.span(
          number...number, (number - 1) * 10, number * 10, at: 86_400 * 365 + number * 2,
          beginning: number == 1 ? .some(nil) : .none))
    }
    let chain = try #require(chains(of: spans).first)
    func due(_ seconds: Int64) -> [[Int64]] {
      LogJoining.due(in: chain, now: Timestamp(seconds: 86_400 * 365 + seconds)).map {
        $0.map(\.span.numbers.lowerBound)
      }
    }
    #expect(due(59).isEmpty)
    #expect(due(60) == [Array(1...29)])
    #expect(due(125).map(\.count) == [29, 30])
    #expect(due(3600) == [Array(1...200)])
  }
}
