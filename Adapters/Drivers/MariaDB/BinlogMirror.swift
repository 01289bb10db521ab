import Core
import DriverKit

/// Makes a server's files again of the events it sends: byte for byte, but for the bit that says a file is in use.
///
/// Performs nothing. Each event is taken at the place where its file must go on, and must say that it ends where it does;
/// what a server makes up for its listeners is left out.
struct BinlogMirror {
  /// Codes of failures: the log can't be had from there; what came does not go on.
  static let refused: UInt32 = 3_000_001
  static let broken: UInt32 = 3_000_002

  private static let magic: [UInt8] = [0xfe, 0x62, 0x69, 0x6e]

  /// Where a log ends, with what is needed to find the place again and to see that it is the same log.
  struct Resumption: Sendable {
    var file: LogFileName
    var position: BinlogPosition
    var gtid: GTIDList
    /// The transaction that the log ends in the middle of.
    var open: TransactionScanner.Open?
    /// The last event: where it begins, and its digest. `nil` if the file has none yet.
    var last: (offset: Int64, digest: String)?

    init?(_ end: LogEnd) {
      guard let file = LogFileName(end.cursor.file), end.position.kind == "binlog",
        let gtid = GTIDList(end.position.details["gtid"] ?? ""),
        let position = BinlogPosition(file: file.name, offset: max(4, end.cursor.offset)),
        position.description == end.position.value
      else { return nil }
      (self.file, self.position, self.gtid) = (file, position, gtid)
      open = end.position.details["open"].flatMap { TransactionScanner.Open($0) }
      guard end.cursor.offset > 0 else { return }
      let fields = (end.position.details["last"] ?? "").split(separator: ":")
      guard fields.count == 2, let offset = Int64(fields[0]), offset >= 4, offset < end.cursor.offset else {
        return nil
      }
      last = (offset, String(fields[1]))
    }
  }

  private let stream: String
  private(set) var file: String
  /// `nil` until the file's first event has come.
  private var begun: UInt32?
  /// Where the next event begins.
  private var offset: Int64 = 4
  /// Where the file before ended.
  private var follows: LogCursor?
  private var scanner: TransactionScanner
  /// The last event that was taken.
  private var last: (offset: Int64, digest: String)?
  private var hasRotated = false

  /// What is expected of a log that is gone on with, until it has been met.
  private var expected: Resumption?
  private var wanted: UInt32?
  private var why: String?
  private var isNew: Bool
  private var beginning: LogBeginning?

  private(set) var isSemiSynchronous = false
  private var isFirst = true

  private var chunks: [LogChunk] = []
  private var chunk: LogChunk?

  init(stream: String, file: String, begun: UInt32?, why: String?) {
    (self.stream, self.file, self.why) = (stream, file, why)
    (wanted, isNew) = (begun, true)
    scanner = TransactionScanner(reached: GTIDList())
  }

  init(stream: String, goingOn place: Resumption) {
    (self.stream, file, expected, wanted, isNew) = (stream, place.file.name, place, place.file.begun, false)
    scanner = TransactionScanner(reached: place.gtid, open: place.open)
    // Beyond four gigabytes the protocol has no number for a place.
    offset = place.last.map { $0.offset > UInt32.max ? 4 : $0.offset } ?? 4
  }

  /// From where to ask for the file.
  var request: UInt32 { UInt32(clamping: offset) }

  /// Whether what has come is known to go on from the sink's log, or to begin one.
  var hasBegun: Bool { expected == nil && begun != nil && !isFirst }

  var position: BinlogPosition { BinlogPosition(file, offset) }
  var reached: GTIDList { scanner.reached }

  var mark: LogPosition {
    var details = ["gtid": scanner.reached.description, "stream": stream]
    if let begun { details["begun"] = String(begun) }
    if let open = scanner.open { details["open"] = open.text }
    if let last { details["last"] = "\(last.offset):\(last.digest)" }
    return LogPosition(kind: "binlog", value: position.description, details: details)
  }

  mutating func takeBeginning() -> LogBeginning? {
    defer { beginning = nil }
    return beginning
  }

  mutating func takeChunks() -> [LogChunk] {
    finishChunk()
    defer { chunks = [] }
    return chunks
  }

  // MARK: Events

  /// - Parameter packet: What the server sent, without the packet's first byte.
  mutating func take(_ packet: UnsafeRawBufferPointer) throws(StatementFailure) {
    var raw = packet
    if isFirst {
      isFirst = false
      // The first event has no time, so its first byte tells whether there is something before it.
      isSemiSynchronous = raw.count > 2 && raw[0] == 0xef
    }
    if isSemiSynchronous {
      guard raw.count > 2, raw[0] == 0xef else { throw Self.broken("an event has no mark of its own") }
      raw = UnsafeRawBufferPointer(rebasing: raw[2...])
    }
    guard let event = BinlogEvent(raw), event.length == raw.count else {
      throw Self.broken("an event is not as long as it says")
    }
    switch event.kind {
    case BinlogEvent.Kind.heartbeat: try hear(event, raw)
    case BinlogEvent.Kind.rotate where event.isArtificial: try enter(raw)
    case BinlogEvent.Kind.format:
      guard BinlogEvent.isSound(raw) else { throw Self.broken("the checksum is wrong of what \(file) begins with") }
      try open(event, raw)
      if !event.isArtificial { try add(event, raw) }
    case _ where event.isArtificial: break
    case BinlogEvent.Kind.encryption: throw Self.broken("\(file) is encrypted")
    default:
      guard begun != nil else { throw Self.broken("\(file) does not begin as a log does") }
      if scanner.hasChecksums, !BinlogEvent.isSound(raw) {
        throw Self.broken("the checksum is wrong of the event at \(position)")
      }
      try add(event, raw)
    }
  }

  /// A file begins; or it is said which one comes.
  private mutating func enter(_ raw: UnsafeRawBufferPointer) throws(StatementFailure) {
    let start = BinlogEvent.headerBytes + 8
    let end = raw.count - (BinlogEvent.isSound(raw) ? 4 : 0)
    let name = end > start ? String(decoding: raw[start..<end], as: UTF8.self) : ""
    guard BinlogPosition.isName(name) else { throw Self.broken("the server names no file") }
    if !hasRotated {
      hasRotated = true
      guard name == file else { throw Self.refusal("the server sends \(name), not \(file)") }
      return
    }
    guard let begun else { throw Self.broken("\(file) has nothing in it") }
    if let expected {
      throw Self.refusal(
        "\(expected.position.file) ends at \(offset), and the log followed went to \(expected.position)")
    }
    finishChunk()
    follows = LogCursor(LogFileName(file, begun: begun).text, offset)
    (file, offset) = (name, 4)
    self.begun = nil
  }

  private mutating func open(_ event: BinlogEvent, _ raw: UnsafeRawBufferPointer) throws(StatementFailure) {
    guard begun == nil else { return }
    begun = event.seconds
    if let wanted, wanted != event.seconds {
      throw Self.refusal("\(file) is another file than it was: it was begun \(Self.time(event.seconds))")
    }
    wanted = nil
    // A file that is gone on with may be in the middle of a transaction.
    scanner.hasChecksums = BinlogEvent.announcesChecksums(raw)
    if let place = expected, place.last == nil { expected = nil }
    if isNew {
      isNew = false
      beginning = LogBeginning(
        stream: stream, cursor: LogCursor(LogFileName(file, begun: event.seconds).text, 0),
        position: mark, why: why)
    }
  }

  private static func time(_ seconds: UInt32) -> String { Timestamp(seconds: Int64(seconds)).description }

  private mutating func add(_ event: BinlogEvent, _ raw: UnsafeRawBufferPointer) throws(StatementFailure) {
    let end = offset + Int64(event.length)
    guard event.end == UInt32(truncatingIfNeeded: end) else {
      throw Self.broken("the event at \(position) says that it ends at \(event.end), not at \(end)")
    }
    if let place = expected, let known = place.last {
      if offset < known.offset {
        offset = end
        return
      }
      guard offset == known.offset, end == place.position.offset, Self.digest(raw) == known.digest else {
        throw Self.refusal("what the server has before \(place.position) is not what it sent")
      }
      (expected, last, offset) = (nil, known, end)
      return
    }
    let step = scanner.take(event, raw)
    // What is before the first event is the same in every file.
    let start = offset == 4 ? 0 : offset
    last = (offset, "")
    offset = end
    if chunk == nil {
      chunk = LogChunk(
        file: LogFileName(file, begun: begun ?? 0).text, offset: start, bytes: start == 0 ? Self.magic : [],
        follows: start == 0 ? follows : nil, mark: LogMark(position: mark))
      if start == 0 { follows = nil }
    }
    chunk?.bytes += raw
    if case .ended(_, let seconds) = step {
      let time = Timestamp(seconds: Int64(seconds))
      let known = chunk?.mark
      chunk?.mark.firstCommit = min(known?.firstCommit ?? time, time)
      chunk?.mark.lastCommit = max(known?.lastCommit ?? time, time)
    }
  }

  private mutating func finishChunk() {
    guard var done = chunk else { return }
    // Only of the last event of each is it ever asked.
    if let start = last?.offset { last?.digest = Digest.of(done.bytes[Int(start - done.offset)...]).short }
    done.mark.position = mark
    chunks.append(done)
    chunk = nil
  }

  private static func digest(_ raw: UnsafeRawBufferPointer) -> String { Digest.of(raw).short }

  /// It says how far it has sent.
  private func hear(_ event: BinlogEvent, _ raw: UnsafeRawBufferPointer) throws(StatementFailure) {
    let start = BinlogEvent.headerBytes
    let end = raw.count - (BinlogEvent.isSound(raw) ? 4 : 0)
    guard begun != nil, expected == nil, end > start, String(decoding: raw[start..<end], as: UTF8.self) == file else {
      return
    }
    guard event.end == UInt32(truncatingIfNeeded: offset) else {
      throw Self.broken("the server has sent \(file) up to \(event.end), and \(offset) is what came")
    }
  }

  private static func refusal(_ why: String) -> StatementFailure { StatementFailure(code: refused, message: why) }
  private static func broken(_ why: String) -> StatementFailure { StatementFailure(code: broken, message: why) }
}
