import Core
import Recovery
import Testing
import Vault

@Suite("Which log is forgotten") struct LogRetentionTests {
  private static func stored(_ seconds: Int64, _ tags: [String]) -> StoredSnapshot {
    let bytes = Array("\(seconds) \(tags)".utf8)
    return StoredSnapshot(
      id: bytes.withUnsafeBytes { Digest.of($0) },
      snapshot: Snapshot(time: Timestamp(seconds: seconds), tree: .of("tree"), paths: ["/x"], hostname: "h", tags: tags)
    )
  }

  private static func stretch(_ number: Int64, _ seconds: Int64, store: String = "shop-db") -> StoredSnapshot {
    stored(seconds, ["salvor-log", "store:\(store)", "driver:postgresql", "log:\(number)-\(number)"])
  }

  private static func copy(_ seconds: Int64, store: String = "shop-db") -> StoredSnapshot {
    stored(seconds, ["salvor", "store:\(store)", "driver:postgresql", "group:g", "point:p\(seconds)"])
  }

  /// One every hour.
  private let log = (1...10).map { stretch($0, $0 * 3600) }

  @Test func `log goes as far as no copy needs it, an hour before the oldest`() {
    let going = LogRetention.unneeded(log, staying: log + [Self.copy(5 * 3600 + 1), Self.copy(9 * 3600)])
    #expect(going == Set(log[0..<4].map(\.id)))
  }

  @Test func `another store's copies say nothing, and without a copy everything stays`() {
    #expect(LogRetention.unneeded(log, staying: log + [Self.copy(9 * 3600, store: "other")]).isEmpty)
  }

  @Test func `the last stretch stays, for it says where the log ends`() {
    #expect(LogRetention.unneeded(log, staying: [Self.copy(90 * 3600)]) == Set(log.dropLast().map(\.id)))
  }

  @Test func `a stretch that came late keeps what comes after it by number`() {
    // Joined or written again: its time is later than that of those that follow.
    let odd = [Self.stretch(1, 3600), Self.stretch(2, 20 * 3600), Self.stretch(3, 2 * 3600), Self.stretch(4, 3 * 3600)]
    #expect(LogRetention.unneeded(odd, staying: [Self.copy(10 * 3600)]) == [odd[0].id])
  }

  @Test func `a policy takes them from the oldest on, never out of the middle`() {
    // As --keep-daily would have it: one here and there.
    let kept: Set<Digest> = [log[3].id, log[7].id]
    let going = LogRetention.leading(log.shuffled(), letGo: Set(log.map(\.id)).subtracting(kept))
    #expect(going == Set(log[0..<3].map(\.id)))
  }
}

@Suite("Which barriers are thinned out") struct BarrierThinningTests {
  @Test func `all for an hour, one a minute for a day, then one an hour, whenever it is looked at`() {
    let day: Int64 = 86_400
    var barriers = stride(from: Int64(0), to: 3 * day, by: 5).map { (id: $0, time: Timestamp(seconds: $0)) }
    var now: Int64 = 3 * day
    // Looked at in between or not: the same stay.
    let once = BarrierThinning.going(barriers, now: Timestamp(seconds: now), all: .seconds(3600))
    for look in Array(stride(from: day, to: 3 * day, by: 3607)) + [3 * day] {
      now = look
      let there = barriers.filter { $0.time <= Timestamp(seconds: now) }
      let going = BarrierThinning.going(there, now: Timestamp(seconds: now), all: .seconds(3600))
      barriers.removeAll { going.contains($0.id) }
    }
    let left = barriers.map(\.id)
    let all = Set(stride(from: Int64(0), to: 3 * day, by: 5))
    #expect(Set(left) == all.subtracting(once))
    let young = left.count { $0 >= 3 * day - 3600 }
    #expect(young == 720)
    let minutes = left.count { $0 > 2 * day && $0 <= 3 * day - 3600 }
    #expect(abs(minutes - 23 * 60) <= 1, "\(minutes)")
    let hours = left.count { $0 <= 2 * day }
    #expect(hours >= 47 && hours <= 50, "\(hours)")
  }
}
