import Core
import DriverKit
import Synchronization

/// What has come of a log and isn't durable yet; the sink a follower fills.
final class LogBuffer: LogSink {
  /// Bytes of one stretch, ready to be written.
  struct Draft: Sendable {
    var beginning: LogBeginning?
    var stream = ""
    var after: LogCursor
    var end: LogCursor
    var from: LogPosition
    var to: LogPosition
    var pieces: [Piece] = []
    var attachments: [String: [UInt8]] = [:]
    var firstCommit: Timestamp?
    var lastCommit: Timestamp?
    var completeUntil: Timestamp?
    var receivedFrom: Timestamp
    var receivedTo: Timestamp
    /// How many stretches had begun.
    var epoch = 0

    var bytes: Int { pieces.reduce(0) { $0 + Int($1.extent.to - $1.extent.from) } }

    /// A stretch of one file, as it came.
    struct Piece: Sendable {
      var extent: LogExtent
      var parts: [[UInt8]]

      /// What is large is kept as it is; a trickle is put together.
      private static let smallBytes = 1 << 18

      mutating func append(_ bytes: [UInt8]) {
        extent.to += Int64(bytes.count)
        if let last = parts.indices.last, parts[last].count + bytes.count <= Self.smallBytes {
          parts[last] += bytes
        } else {
          parts.append(bytes)
        }
      }
    }
  }

  fileprivate struct State {
    /// The end of all that has come.
    var end: LogEnd?
    var durable: LogPosition?
    /// In order; a new one begins with each beginning.
    var drafts: [Draft] = []
    /// When the oldest byte of the drafts came.
    var waitingSince: Int64?
    var waitingBytes = 0
    /// All that was attached since this buffer was made: a stretch that begins needs it too.
    var attachments: [String: [UInt8]] = [:]
    /// Names of what the stretch under way has already.
    var known: Set<String>
    var lastSaved: Int64
    var completeUntil: Timestamp?
    /// The number of the stretch that is saved next.
    var next: Int64
    var epoch = 0
    /// A follower has come again since the archive was asked where it ends.
    var isUncertain = false
  }

  private let state: Mutex<State>
  private let time: any Timekeeper
  private let limitBytes: Int
  let gathering: Duration

  /// - Parameters:
  ///   - end: Where the archive ends.
  ///   - next: The number of the stretch that comes next.
  ///   - attached: Names of what is attached to the stretch that ends there.
  ///   - limitBytes: How much may wait in memory.
  ///   - gathering: How long followers may leave what comes where it is.
  init(
    end: LogEnd?, next: Int64 = 1, attached: Set<String> = [], time: any Timekeeper, limitBytes: Int,
    gathering: Duration = .milliseconds(5)
  ) {
    (self.time, self.limitBytes, self.gathering) = (time, limitBytes, gathering)
    state = Mutex(
      State(
        end: end, durable: end?.position, known: attached, lastSaved: time.monotonicNanoseconds(), next: next))
  }

  /// Where a follower goes on.
  var end: LogEnd? { state.withLock { $0.end } }
  var next: Int64 { state.withLock { $0.next } }
  var hasRoom: Bool { state.withLock { $0.waitingBytes < limitBytes } }
  var durable: LogPosition? { state.withLock { $0.durable } }

  /// A follower asks for the log now; until it got it, another may have had it.
  func connecting() { state.withLock { $0.isUncertain = true } }
  func isCertain() { state.withLock { $0.isUncertain = false } }
  var isUncertain: Bool { state.withLock { $0.isUncertain } }

  func begin(_ beginning: LogBeginning) {
    let now = time.now()
    state.withLock { state in
      var draft = Draft(
        beginning: beginning, stream: beginning.stream, after: beginning.cursor, end: beginning.cursor,
        from: beginning.position, to: beginning.position, receivedFrom: now, receivedTo: now)
      draft.attachments = state.attachments
      state.known = Set(state.attachments.keys)
      state.epoch += 1
      draft.epoch = state.epoch
      // A word about the old stretch is none about the new one.
      state.durable = nil
      // One that holds nothing would be a chain without a byte in it.
      if let last = state.drafts.last, last.beginning != nil, last.pieces.isEmpty {
        draft.beginning?.why = last.beginning?.why ?? beginning.why
        state.drafts.removeLast()
      }
      state.drafts.append(draft)
      state.end = LogEnd(stream: beginning.stream, cursor: beginning.cursor, position: beginning.position)
      if state.waitingSince == nil { state.waitingSince = time.monotonicNanoseconds() }
    }
  }

  func append(_ chunk: LogChunk) throws(DriverError) {
    let extent = LogExtent(
      chunk.file, from: chunk.offset, to: chunk.offset + Int64(chunk.bytes.count), follows: chunk.follows)
    let now = time.now()
    let problem = state.withLock { state -> DriverError? in
      guard let end = state.end else { return .logGap("\(extent.file)+\(extent.from) comes before the log began") }
      guard !chunk.bytes.isEmpty, extent.goesOn(from: end.cursor) else {
        return .logGap("\(extent.file)+\(extent.from) does not go on from \(end.cursor)")
      }
      let draft = state.draft(now)
      state.drafts[draft].take(chunk.mark, now)
      if chunk.follows == nil, let last = state.drafts[draft].pieces.indices.last,
        state.drafts[draft].pieces[last].extent.end == LogCursor(chunk.file, chunk.offset)
      {
        state.drafts[draft].pieces[last].append(chunk.bytes)
      } else {
        state.drafts[draft].pieces.append(Draft.Piece(extent: extent, parts: [chunk.bytes]))
      }
      state.drafts[draft].end = extent.end
      state.drafts[draft].to = chunk.mark.position
      let before = chunk.follows == nil ? end.tail : []
      let tail =
        chunk.bytes.count >= LogEnd.tailBytes
        ? Array(chunk.bytes.suffix(LogEnd.tailBytes)) : Array((before + chunk.bytes).suffix(LogEnd.tailBytes))
      state.end = LogEnd(stream: end.stream, cursor: extent.end, position: chunk.mark.position, tail: tail)
      state.waitingBytes += chunk.bytes.count
      if state.waitingSince == nil { state.waitingSince = time.monotonicNanoseconds() }
      return nil
    }
    if let problem { throw problem }
  }

  func attach(_ name: String, _ bytes: [UInt8]) {
    let now = time.now()
    state.withLock { state in
      state.attachments[name] = bytes
      guard state.end != nil, state.known.insert(name).inserted else { return }
      let draft = state.draft(now)
      state.drafts[draft].attachments[name] = bytes
      if state.waitingSince == nil { state.waitingSince = time.monotonicNanoseconds() }
    }
  }

  func note(_ mark: LogMark) {
    let now = time.now()
    state.withLock { state in
      // The last word counts: a clock that was ahead may have been put right.
      state.completeUntil = mark.completeUntil ?? state.completeUntil
      guard let last = state.drafts.indices.last else { return }
      state.drafts[last].take(mark, now)
    }
  }

  /// When the oldest of what waits came, on the monotonic clock; `nil` if nothing waits.
  var waiting: (since: Int64, bytes: Int)? {
    state.withLock { state in state.waitingSince.map { ($0, state.waitingBytes) } }
  }

  /// Takes what waits out, oldest first; nothing of it counts as durable before ``saved(_:)``.
  func take() -> [Draft] {
    state.withLock { state in
      defer {
        state.drafts = []
        (state.waitingSince, state.waitingBytes) = (nil, 0)
      }
      return state.drafts
    }
  }

  /// A stretch without bytes, that says the log is complete until now; `nil` if the server hasn't said so.
  func idle(for interval: Duration) -> Draft? {
    let now = time.now()
    return state.withLock { state in
      guard state.drafts.isEmpty, let end = state.end, let until = state.completeUntil,
        time.monotonicNanoseconds() - state.lastSaved >= interval.wholeNanoseconds
      else { return nil }
      return Draft(
        stream: end.stream, after: end.cursor, end: end.cursor, from: end.position, to: end.position,
        completeUntil: until, receivedFrom: now, receivedTo: now, epoch: state.epoch)
    }
  }

  func saved(_ draft: Draft) {
    state.withLock { state in
      state.next += 1
      if draft.epoch == state.epoch { state.durable = draft.to }
      state.lastSaved = time.monotonicNanoseconds()
      state.completeUntil = nil
    }
  }
}

extension LogBuffer.State {
  /// The draft that takes what comes next; there is an end.
  fileprivate mutating func draft(_ now: Timestamp) -> Int {
    if drafts.isEmpty, let end {
      drafts.append(
        LogBuffer.Draft(
          stream: end.stream, after: end.cursor, end: end.cursor, from: end.position, to: end.position,
          receivedFrom: now, receivedTo: now, epoch: epoch))
    }
    return drafts.count - 1
  }
}

extension LogBuffer.Draft {
  fileprivate mutating func take(_ mark: LogMark, _ now: Timestamp) {
    firstCommit = [firstCommit, mark.firstCommit].compactMap(\.self).min()
    lastCommit = [lastCommit, mark.lastCommit].compactMap(\.self).max()
    completeUntil = mark.completeUntil ?? completeUntil
    receivedTo = now
  }
}
