import Core
import DriverKit

/// What a server says of its peers, timed by the clock of who asks it: the server's wall clock and those of its peers may
/// step, each for itself.
struct PeerWatch: Sendable {
  private struct Peer {
    var sign = ""
    var changedAt: Int64 = 0
    var flushed: Int64 = 0
    var isListed = false
  }

  private var peers: [MemberName: Peer] = [:]
  private var heard: (sign: String, at: Int64)?
  /// How far the primary's own log reached, and when that was seen first; the oldest that isn't confirmed first.
  private var reached: [(offset: Int64, at: Int64)] = []
  private var confirmed: Int64 = 0

  /// One look at who streams from a primary.
  ///
  /// - Parameters:
  ///   - text: `name=sign=offset` each, with commas between; a sign is anything that changes with every word from there.
  ///   - position: How far the log is flushed here.
  ///   - needed: Of how many others the word is needed.
  mutating func listed(_ text: String, position: Int64, needed: Int, at now: Int64) {
    for name in peers.keys { peers[name]?.isListed = false }
    for item in text.split(separator: ",") {
      let parts = item.split(separator: "=", maxSplits: 2, omittingEmptySubsequences: false)
      guard parts.count == 3, let name = MemberName(parts[0]), let flushed = Int64(parts[2]) else { continue }
      var peer = peers[name] ?? Peer()
      if peer.sign != parts[1] || peer.changedAt == 0 { (peer.sign, peer.changedAt) = (String(parts[1]), now) }
      (peer.flushed, peer.isListed) = (max(peer.flushed, flushed), true)
      peers[name] = peer
    }
    let order = peers.values.map(\.flushed).sorted(by: >)
    if needed > 0, order.count >= needed { confirmed = max(confirmed, order[needed - 1]) }
    if position > (reached.last?.offset ?? confirmed) { reached.append((position, now)) }
    // Bounded: so many looks without a word are long after anything that is decided by it.
    if reached.count > 4096 { reached.remove(at: 1) }
    reached.removeAll { $0.offset <= confirmed }
  }

  /// Those a word came from within `fresh` milliseconds.
  func attached(at now: Int64, fresh: Int64) -> [MemberName] {
    peers.filter { $0.value.isListed && now - $0.value.changedAt < fresh }.keys.sorted()
  }

  /// How long there has been something that too few have confirmed, and how much that is.
  func lag(at now: Int64) -> (milliseconds: Int64, bytes: Int64) {
    guard let first = reached.first, let last = reached.last else { return (0, 0) }
    return (now - first.at, max(0, last.offset - confirmed))
  }

  /// One look at what a standby last heard from whom it follows.
  ///
  /// - Parameters:
  ///   - sign: Changes with every word from there; `nil` if nobody is followed.
  ///   - age: By the server's own clock; only believed of what was there before the first look.
  /// - Returns: How many milliseconds ago it was.
  mutating func heard(_ sign: String?, age: Int64?, at now: Int64) -> Int64? {
    guard let sign else {
      heard = nil
      return nil
    }
    if heard == nil { heard = (sign, now - min(max(0, age ?? 0), 3_600_000)) }
    if heard?.sign != sign { heard = (sign, now) }
    return heard.map { now - $0.at }
  }
}
