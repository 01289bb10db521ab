import Core
import DriverKit
import IO

/// The end of the log of an account's streams. Every call blocks.
final class StreamTail: @unchecked Sendable {
  // Used by one task at a time, on the blocking pool.
  private let control: JetStream
  private let link: JetStream
  private let account: String
  private let isLocal: Bool
  private let time: any Timekeeper
  private let mark: String
  private var streams: [String: Followed] = [:]
  /// Names by the consumer that brings their messages.
  private var bringing: [String: String] = [:]
  private var file = StreamLogFile(Timestamp(nanoseconds: 0), mark: "00000000")
  private var offset: Int64 = 0
  private var follows: LogCursor?
  private var nextNumber: UInt32 = 0
  private var files: UInt32 = 0
  /// The latest of all that is in the log.
  private var latest = Timestamp(nanoseconds: 0)
  /// Records that are not in the log yet.
  private var pending: [UInt8] = []
  private var commits: (first: Timestamp, last: Timestamp)?
  /// Something came since the log was last said to be complete.
  private var isDirty = true
  /// Up to here the log was last seen to be complete.
  private var whole: Timestamp?
  private var clock: Clock?
  private var clockAsked: Int64 = 0

  /// What the server's clock is ahead of ours, between two bounds.
  private struct Clock {
    var least: Duration
    var most: Duration
  }

  private struct Followed {
    var number: UInt32
    var info: StreamInfo
    var place: StreamPlace
    /// The first number that is kept, as far as the log knows.
    var first: Int64 = 0
    var last: Int64 = 0
    var consumers: [CapturedStream.Consumer]?
    var holes: [ClosedRange<Int64>] = []
    var deleted: Int64 = 0
    var holesAsked: Int64?
    /// A number that is expected to come first, since it is in the log already: its time must be the same.
    var overlap: StreamPlace?
    /// Since when messages are missing that the server says there are.
    var lagsSince: Int64?
    var consumer: String?
  }

  init(
    control: JetStream, link: JetStream, account: String, isLocal: Bool, time: any Timekeeper, mark: String
  ) {
    (self.control, self.link, self.account, self.isLocal) = (control, link, account, isLocal)
    (self.time, self.mark) = (time, mark)
  }

  @discardableResult
  private func wired<T>(_ body: () throws(WireError) -> T) throws(FollowFailure) -> T {
    do throws(WireError) { return try body() } catch { throw .wire(error) }
  }

  private func driven<T>(_ body: () throws(DriverError) -> T) throws(FollowFailure) -> T {
    do throws(DriverError) { return try body() } catch { throw .driver(error) }
  }

  // MARK: The begin

  /// Goes on with the log if the server's streams lead on from it, or begins another.
  ///
  /// - Parameter hint: The newest copy's moment, from which on messages are had, where a log begins.
  func begin(from end: LogEnd?, hint: Timestamp?, into sink: any LogSink) throws(FollowFailure) {
    let found = try list()
    var why: String?
    var known: [String: StreamPlace] = [:]
    if let end {
      known = try driven { () throws(DriverError) in try StreamPlace.all(in: end.position) }
      why = Self.missing(known, found)
      if end.stream != account { why = "it was of account \(end.stream)" }
      if why == nil, let wrong = try differing(known, found) { why = wrong }
    }
    if let end, why == nil {
      guard let last = StreamLogFile(end.cursor.file), let moment = Timestamp(end.position.value) else {
        throw .driver(StreamRecord.damaged("its last file is called \(end.cursor.file), which is no name of its own"))
      }
      (file, offset, latest) = (last, end.cursor.offset, moment)
      latest = max(latest, last.moment)
      try put(.begin, at: latest)
      for (name, place) in known {
        guard let info = found.first(where: { $0.name == name && $0.created == place.created }) else { continue }
        try follow(info, from: place)
      }
      // Streams that are gone are told by the number they get first.
      for (name, place) in known.sorted(by: { $0.key < $1.key }) where streams[name] == nil {
        let number = nextNumber
        nextNumber += 1
        let now = bounds().most
        try put(.stream(number: number, name: name, created: place.created, config: ["name": .string(name)]), at: now)
        try put(.gone(number: number), at: now)
      }
    } else {
      let last = found.compactMap(\.lastTime).max() ?? Timestamp(nanoseconds: 0)
      latest = hint.map { min($0, last) } ?? last
      file = StreamLogFile(latest, mark: mark)
      try put(.begin, at: latest)
      for info in found {
        if let hint, last > hint {
          try follow(info, fromTime: hint)
        } else {
          try follow(info, from: StreamPlace(created: info.created, last: info.lastSequence, time: 0))
        }
      }
      let start = Timestamp(nanoseconds: file.moment.nanoseconds)
      sink.begin(
        LogBeginning(
          stream: account, cursor: LogCursor(file.name, 0), position: position(at: start), why: why))
    }
    try flush(into: sink)
    try look(into: sink)
  }

  private func list() throws(FollowFailure) -> [StreamInfo] {
    let all = try wired { () throws(WireError) in try control.streams() }
    if let why = NATSDriver.unfollowed(all, cluster: control.client.info.cluster) { throw .driver(.unsupported(why)) }
    return all.filter { !$0.isInMemory }
  }

  /// Why the server's streams don't lead on from the log; `nil` if they may.
  static func missing(_ known: [String: StreamPlace], _ found: [StreamInfo]) -> String? {
    for info in found {
      guard let place = known[info.name], place.created == info.created, info.lastSequence < place.last else {
        continue
      }
      return
        "stream \(info.name) ends at message \(info.lastSequence), before \(place.last): the server lost what it had"
    }
    return nil
  }

  /// Whether a stream's last message is another one than was seen under its number.
  private func differing(
    _ known: [String: StreamPlace], _ found: [StreamInfo]
  ) throws(FollowFailure) -> String? {
    for info in found {
      guard let place = known[info.name], place.created == info.created, place.last > 0, place.time > 0 else {
        continue
      }
      guard info.lastSequence == place.last, info.messages > 0, let time = info.lastTime?.nanoseconds else { continue }
      if time != place.time { return Self.another(info.name, place.last) }
    }
    return nil
  }

  static func another(_ name: String, _ sequence: Int64) -> String {
    "message \(sequence) of stream \(name) is another one than was seen: the server came back with less and went on"
  }

  // MARK: Streams

  private func declare(_ info: StreamInfo, at moment: Timestamp) throws(FollowFailure) -> UInt32 {
    let number = nextNumber
    nextNumber += 1
    try put(.stream(number: number, name: info.name, created: info.created, config: info.config), at: moment)
    return number
  }

  /// Has messages behind a place brought, and the one at it, to be compared.
  private func follow(_ info: StreamInfo, from place: StreamPlace) throws(FollowFailure) {
    let compares = place.time > 0 && place.last > 0
    var followed = Followed(number: try declare(info, at: bounds().most), info: info, place: place)
    followed.overlap = compares ? place : nil
    try bring(
      &followed,
      [
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": .integer(max(1, compares ? place.last : place.last + 1)),
      ])
  }

  /// Has messages brought that were stored after a moment.
  private func follow(_ info: StreamInfo, fromTime moment: Timestamp) throws(FollowFailure) {
    var followed = Followed(
      number: try declare(info, at: bounds().most), info: info,
      place: StreamPlace(created: info.created, last: 0, time: 0))
    // Nothing to bring: it would be taken for one that lags behind.
    if info.lastTime.map({ $0 < moment }) ?? true { followed.place.last = info.lastSequence }
    try bring(
      &followed, ["deliver_policy": "by_start_time", "opt_start_time": .string(moment.description)])
  }

  private func bring(_ followed: inout Followed, _ start: [String: JSONValue]) throws(FollowFailure) {
    let name = followed.info.name
    let subject = try wired { () throws(WireError) in try link.client.subscribe() }
    let more: [String: JSONValue] = [
      "deliver_subject": .string(subject), "ack_policy": "none", "replay_policy": "instant",
      "mem_storage": true, "num_replicas": 1, "flow_control": true, "idle_heartbeat": 5_000_000_000,
    ]
    let config = start.merging(more) { $1 }
    let made = try wired { () throws(WireError) in
      try control.call("CONSUMER.CREATE.\(name)", ["stream_name": .string(name), "config": .object(config)])
    }
    guard let consumer = made["name"]?.string, StreamInfo.isName(consumer) else {
      throw .wire(.garbled("a consumer's name"))
    }
    followed.consumer = consumer
    // Of a moment on there may be nothing to bring, whatever the numbers say.
    if followed.place.last == 0, made["num_pending"]?.integer == 0 { followed.place.last = followed.info.lastSequence }
    bringing["\(name) \(consumer)"] = name
    streams[name] = followed
  }

  // MARK: Messages

  /// Takes what has come, and waits for it if nothing has.
  ///
  /// - Returns: How many bytes were taken.
  func receive(_ limit: Int, wait: Duration, into sink: any LogSink) throws(FollowFailure) -> Int {
    guard try wired({ () throws(WireError) in try link.client.hasNews(within: wait) }) else { return 0 }
    var bytes = 0
    repeat {
      guard let message = try wired({ () throws(WireError) in try link.client.taken(NATSFollower.silence) }) else {
        continue
      }
      bytes += message.payload.count + message.headers.count + 64
      if message.status == 100 {
        // Flow control waits for an answer; a heartbeat may ask for one too.
        if let reply = message.reply {
          try wired { () throws(WireError) in try link.client.publish(reply) }
        } else if let stalled = message.value(of: "Nats-Consumer-Stalled") {
          try wired { () throws(WireError) in try link.client.publish(stalled) }
        }
      } else {
        try take(message, into: sink)
      }
    } while bytes < limit && link.client.hasBuffered
    try wired { () throws(WireError) in try link.client.flush() }
    try flush(into: sink)
    return bytes
  }

  private func take(_ message: Message, into sink: any LogSink) throws(FollowFailure) {
    guard let place = Delivered(message), let name = bringing["\(place.stream) \(place.consumer)"],
      var followed = streams[name]
    else { return }
    let stored = StoredMessage(
      sequence: place.sequence, time: place.time, subject: message.subject, headers: message.headers,
      payload: message.payload)
    if let overlap = followed.overlap {
      followed.overlap = nil
      if stored.sequence == overlap.last {
        streams[name] = followed
        // The next session finds the same and begins anew.
        guard stored.time.nanoseconds == overlap.time else {
          return try beginAnew(Self.another(name, overlap.last), into: sink)
        }
        return
      }
    }
    guard stored.sequence > followed.place.last else {
      throw .wire(.garbled("message \(stored.sequence) of stream \(name) after \(followed.place.last)"))
    }
    try put(.message(number: followed.number, stored), at: stored.time)
    commits = commits.map { (min($0.first, stored.time), max($0.last, stored.time)) } ?? (stored.time, stored.time)
    followed.place.last = stored.sequence
    followed.place.time = stored.time.nanoseconds
    followed.lagsSince = nil
    streams[name] = followed
    if pending.count >= 1 << 20 { try flush(into: sink) }
  }

  /// The log can't go on: another begins here, from what the server has now.
  private func beginAnew(_ why: String, into sink: any LogSink) throws(FollowFailure) {
    pending = []
    let found = try list()
    latest = found.compactMap(\.lastTime).max() ?? latest
    file = StreamLogFile(latest, mark: mark)
    streams = [:]
    for info in found {
      let place = StreamPlace(created: info.created, last: info.lastSequence, time: info.lastTime?.nanoseconds ?? 0)
      streams[info.name] = Followed(number: 0, info: info, place: place)
    }
    sink.begin(LogBeginning(stream: account, cursor: LogCursor(file.name, 0), position: position, why: why))
    throw .driver(.logGap(why))
  }

  // MARK: Everything else

  /// Writes down what differs from what the log knows; says that the log is complete, if it is.
  func look(into sink: any LogSink) throws(FollowFailure) {
    try askClock()
    let before = bounds().least
    let found = try list()
    let now = bounds().most
    let names = Set(found.map(\.name))
    for (name, followed) in streams.sorted(by: { $0.key < $1.key }) where !names.contains(name) {
      try gone(followed.number, now)
      forget(name)
    }
    var isWhole = true
    for info in found { if try !look(at: info, now) { isWhole = false } }
    try flush(into: sink)
    guard isWhole, let before else { return }
    if isDirty {
      try put(.complete, at: before)
      try flush(into: sink, completeUntil: before)
      isDirty = false
    }
    whole = before
    sink.note(LogMark(position: position, completeUntil: before))
  }

  /// Until it was last seen, all that it had was here: what came after that may have gone with it.
  private func gone(_ number: UInt32, _ now: Timestamp) throws(FollowFailure) {
    if let whole { try put(.complete, at: whole) }
    try put(.gone(number: number), at: now)
  }

  private func forget(_ name: String) {
    if let consumer = streams[name]?.consumer { bringing["\(name) \(consumer)"] = nil }
    streams[name] = nil
  }

  /// - Returns: Whether all that it had is in the log.
  private func look(at info: StreamInfo, _ now: Timestamp) throws(FollowFailure) -> Bool {
    let name = info.name
    if let known = streams[name], known.info.created != info.created {
      try gone(known.number, now)
      forget(name)
    }
    guard var followed = streams[name] else {
      let isNew = StreamPlace(created: info.created, last: 0, time: 0)
      try follow(info, from: isNew)
      return info.lastSequence == 0
    }
    if info.lastSequence < followed.place.last {
      throw .driver(.logGap("stream \(name) has less than it had"))
    }
    if followed.info.config != info.config {
      try put(
        .stream(number: followed.number, name: name, created: info.created, config: info.config), at: now)
    }
    if info.firstSequence > followed.place.last + 1 {
      // What came and went: nothing is brought of it.
      followed.place.last = info.firstSequence - 1
      followed.place.time = 0
    }
    try lookForHoles(&followed, info, now)
    if followed.first != info.firstSequence || followed.last < followed.place.last && followed.place.time == 0 {
      try put(
        .bounds(
          number: followed.number, first: min(info.firstSequence, followed.place.last + 1), last: followed.place.last),
        at: now)
      (followed.first, followed.last) = (info.firstSequence, followed.place.last)
    }
    if info.consumers > 1 || followed.consumers?.isEmpty != true {
      let all = try wired { () throws(WireError) in try control.consumers(of: name) }
      let consumers = all.filter(\.isDurable).map { consumer in
        let place = consumer.goesOn(behind: .max)
        return CapturedStream.Consumer(
          name: consumer.name, created: consumer.created, config: consumer.config, count: place.count,
          sequence: place.sequence)
      }
      if consumers != followed.consumers {
        try put(.consumers(number: followed.number, consumers), at: bounds().most)
      }
      followed.consumers = consumers
    }
    followed.info = info
    let isWhole = followed.place.last >= info.lastSequence
    let monotonic = time.monotonicNanoseconds()
    if isWhole { followed.lagsSince = nil } else { followed.lagsSince = followed.lagsSince ?? monotonic }
    streams[name] = followed
    if let since = followed.lagsSince, Duration.nanoseconds(monotonic - since) >= NATSFollower.silence {
      throw .driver(
        .unreachable("the log of stream \(name): nothing has come for \(NATSFollower.silence.brief), and there is more")
      )
    }
    return isWhole
  }

  /// More holes than that are not asked for: the server would say them one by one.
  private static let holesLimit: Int64 = 1_000_000

  private func lookForHoles(
    _ followed: inout Followed, _ info: StreamInfo, _ now: Timestamp
  ) throws(FollowFailure) {
    let deleted = max(0, info.lastSequence - max(1, info.firstSequence) + 1 - info.messages)
    let lags = followed.lagsSince != nil
    guard deleted != followed.deleted || followed.holesAsked == nil || lags, deleted <= Self.holesLimit else { return }
    let monotonic = time.monotonicNanoseconds()
    // A stream of many holes is asked more rarely.
    if let asked = followed.holesAsked, Duration.nanoseconds(monotonic - asked) < .milliseconds(deleted / 10) { return }
    followed.holesAsked = monotonic
    followed.deleted = deleted
    guard deleted > 0 else {
      followed.holes = []
      return
    }
    let (name, answer) = (
      info.name,
      try wired { () throws(WireError) in
        try control.call("STREAM.INFO.\(info.name)", ["deleted_details": true], patience: .seconds(60))
      }
    )
    guard answer["created"]?.string == info.created else { return }
    guard let state = answer["state"], let numbers = state["deleted"]?.array ?? (state["num_deleted"] == nil ? [] : nil)
    else { throw .wire(.garbled("what was deleted from stream \(name)")) }
    var holes: [ClosedRange<Int64>] = []
    for number in numbers {
      guard let sequence = number.integer, sequence > holes.last?.upperBound ?? 0 else {
        throw .wire(.garbled("what was deleted from stream \(name)"))
      }
      if let last = holes.last, last.upperBound + 1 == sequence {
        holes[holes.count - 1] = last.lowerBound...sequence
      } else {
        holes.append(sequence...sequence)
      }
    }
    let fresh = Self.subtracting(followed.holes, from: holes)
    if !fresh.isEmpty { try put(.removed(number: followed.number, fresh), at: bounds().most) }
    followed.holes = holes
    // The last ones may have gone before they were brought.
    if lags, let hole = holes.first(where: { $0.contains(followed.place.last + 1) }),
      hole.upperBound >= info.lastSequence
    {
      followed.place.last = hole.upperBound
      followed.place.time = 0
    }
  }

  /// What is in `ranges` and not in `old`; both ascend and don't touch themselves.
  static func subtracting(
    _ old: [ClosedRange<Int64>], from ranges: [ClosedRange<Int64>]
  ) -> [ClosedRange<Int64>] {
    var result: [ClosedRange<Int64>] = []
    var index = 0
    for range in ranges {
      var from = range.lowerBound
      while index < old.count, old[index].upperBound < from { index += 1 }
      var at = index
      while at < old.count, old[at].lowerBound <= range.upperBound, from <= range.upperBound {
        if old[at].lowerBound > from { result.append(from...old[at].lowerBound - 1) }
        from = max(from, old[at].upperBound + 1)
        at += 1
      }
      if from <= range.upperBound { result.append(from...range.upperBound) }
    }
    return result
  }

  // MARK: The server's clock

  /// A consumer that is made says when, by the server's clock. On this machine it is ours.
  private func askClock() throws(FollowFailure) {
    guard !isLocal, let name = streams.keys.min() else { return }
    let monotonic = time.monotonicNanoseconds()
    guard clock == nil || Duration.nanoseconds(monotonic - clockAsked) >= .seconds(60) else { return }
    let before = time.now()
    let made = try wired { () throws(WireError) in
      try control.call(
        "CONSUMER.CREATE.\(name)",
        [
          "stream_name": .string(name),
          "config": [
            "ack_policy": "none", "deliver_policy": "new", "mem_storage": true, "num_replicas": 1,
            "inactive_threshold": 1_000_000_000,
          ],
        ])
    }
    let after = time.now()
    guard let created = made["created"]?.string.flatMap({ Timestamp($0) }) else {
      throw .wire(.garbled("when a consumer was made"))
    }
    // Two clocks drift apart until the next time.
    clock = Clock(least: created - after - .milliseconds(20), most: created - before + .milliseconds(20))
    clockAsked = monotonic
  }

  /// Moments of the server's clock between which it is now.
  private func bounds() -> (least: Timestamp?, most: Timestamp) {
    let now = time.now()
    if isLocal { return (now, now) }
    guard let clock else { return (nil, now) }
    return (now + clock.least, now + clock.most)
  }

  // MARK: Writing

  private var position: LogPosition { position(at: latest) }

  private func position(at moment: Timestamp) -> LogPosition {
    var details = ["account": account]
    for (name, followed) in streams { details[StreamPlace.prefix + name] = followed.place.text }
    return LogPosition(kind: "moment", value: moment.description, details: details)
  }

  private func put(_ record: StreamRecord, at moment: Timestamp) throws(FollowFailure) {
    try driven { () throws(DriverError) in try record.append(to: &pending, at: moment) }
    if case .complete = record { return }
    latest = max(latest, moment)
    isDirty = true
  }

  private func flush(into sink: any LogSink, completeUntil: Timestamp? = nil) throws(FollowFailure) {
    guard !pending.isEmpty else { return }
    let bytes = pending
    pending = []
    let chunk = LogChunk(
      file: file.name, offset: offset, bytes: bytes, follows: follows,
      mark: LogMark(
        position: position, firstCommit: commits?.first, lastCommit: commits?.last, completeUntil: completeUntil))
    try driven { () throws(DriverError) in try sink.append(chunk) }
    offset += Int64(bytes.count)
    (follows, commits) = (nil, nil)
    if offset >= StreamLogFile.bytes { try turn() }
  }

  /// Begins the next file; it can be read by itself.
  private func turn() throws(FollowFailure) {
    files += 1
    let serial = UInt32(mark, radix: 16) ?? 0
    let digits = String(serial &+ files, radix: 16)
    follows = LogCursor(file.name, offset)
    file = StreamLogFile(latest, mark: String(repeating: "0", count: 8 - digits.count) + digits)
    offset = 0
    try put(.begin, at: latest)
    for (name, followed) in streams.sorted(by: { $0.value.number < $1.value.number }) {
      try put(
        .stream(number: followed.number, name: name, created: followed.info.created, config: followed.info.config),
        at: latest)
    }
  }
}

/// Where a message that a consumer was given stands in its stream.
struct Delivered: Sendable, Equatable {
  var stream: String
  var consumer: String
  var sequence: Int64
  var time: Timestamp
  /// How many more there are.
  var pending: Int64

  /// - Returns: `nil` for a message that no consumer was given.
  init?(_ message: Message) {
    guard let reply = message.reply, reply.hasPrefix("$JS.ACK.") else { return nil }
    let words = reply.split(separator: ".")
    // $JS.ACK.[domain.account.]stream.consumer.deliveries.sequence.count.time.pending
    let base = words.count >= 11 ? 2 : 0
    guard words.count >= 9 + base, let sequence = Int64(words[5 + base]), sequence > 0,
      let time = Int64(words[7 + base]), time > 0, let pending = Int64(words[8 + base])
    else { return nil }
    (stream, consumer) = (String(words[2 + base]), String(words[3 + base]))
    (self.sequence, self.time, self.pending) = (sequence, Timestamp(nanoseconds: time), pending)
  }
}
