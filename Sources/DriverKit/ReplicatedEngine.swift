import Core

/// One copy of a store among several that replicate, as its agent handles it; holds no policy and no history.
///
/// Only ``sight(of:)`` asks another machine. Every change is durable when it returns, and may be repeated.
package protocol ReplicatedEngine: Sendable {
  /// What it says of itself now.
  ///
  /// - Throws: If it runs and can't be asked. One that doesn't run is no failure.
  func facts() async throws(DriverError) -> EngineFacts

  /// One look at a member from here, as a client would; never longer than a second.
  func sight(of member: MemberName) async -> Sight

  /// Commits something small, which keeps the log moving, and returns when it is acknowledged.
  func beat() async throws(DriverError)

  /// Follows nobody any more, across restarts too; returns when nothing more can arrive, so that the position stands still.
  func detach() async throws(DriverError)

  /// Makes it a primary that acknowledges as the policy says, if it isn't one; and lets it acknowledge again if it is.
  func promote() async throws(DriverError)

  /// Makes a standby follow `primary` and nobody else.
  func follow(_ primary: MemberName) async throws(DriverError)

  /// - Parameter inOrder: What was committed is sent to standbys first; else it ends at once.
  func stop(inOrder: Bool) async throws(DriverError)

  /// - Parameter detached: As a standby that follows nobody, whatever it was.
  func start(detached: Bool) async throws(DriverError)

  /// Makes whatever it is a standby of `primary`. What it has and the primary hasn't is copied aside first.
  func rejoin(_ primary: MemberName) async throws(DriverError)

  /// No commit is acknowledged before enough standbys have it; or each when it is flushed here.
  func hold(_ holds: Bool) async throws(DriverError)

  /// Commits wait for enough of `voters`, and nobody else's word counts once this returns, nor after a restart.
  ///
  /// - Throws: ``DriverError/unsupported(_:)`` if an engine can't choose; then ``EngineFacts/voters`` is `nil` too.
  func acknowledge(by voters: [MemberName]) async throws(DriverError)
}

extension ReplicatedEngine {
  package func acknowledge(by voters: [MemberName]) async throws(DriverError) {
    throw .unsupported("this engine can't choose whose word counts")
  }
}

/// What one look at an engine over the network found.
package enum Sight: String, Sendable, Codable {
  /// It takes writes.
  case serves
  /// It answers, and takes none.
  case answers
  /// Its host answered that nobody listens.
  case refused
  /// No answer.
  case silent
}

package struct EngineFacts: Sendable, Equatable, Codable {
  package enum Role: String, Sendable, Codable { case primary, standby, stopped }

  package var role: Role
  /// How long it has had this role.
  package var forMilliseconds: Int64
  /// What it has flushed. `nil` if that can't be known, such as of a stopped engine.
  package var position: EnginePosition?
  /// Whom it was told to follow; `nil` once detached.
  package var following: MemberName?
  /// Bytes or a sign of life came from there a moment ago.
  package var isStreaming: Bool
  /// How long ago that was; of a standby that follows.
  package var heardMilliseconds: Int64?
  /// Standbys that confirmed something a moment ago; of a primary.
  package var attached: [MemberName]
  /// It acknowledges nothing, on our word.
  package var isHeld: Bool
  /// A commit was acknowledged a moment ago; of a primary.
  package var acknowledges: Bool
  /// Age of the oldest commit that too few standbys have confirmed; of a primary whose loss is bounded.
  package var lagMilliseconds: Int64?
  package var lagBytes: Int64?
  /// Whose word commits wait for; of a primary whose engine can choose, and `nil` of any other.
  package var voters: [MemberName]?
  /// Something that was committed after ``voters`` were last changed has been acknowledged: enough of them have all there is.
  package var votersHoldAll: Bool?

  package init(
    role: Role, forMilliseconds: Int64 = 0, position: EnginePosition? = nil, following: MemberName? = nil,
    isStreaming: Bool = false, heardMilliseconds: Int64? = nil, attached: [MemberName] = [], isHeld: Bool = false,
    acknowledges: Bool = false,
    lagMilliseconds: Int64? = nil, lagBytes: Int64? = nil
  ) {
    (self.role, self.forMilliseconds, self.position) = (role, forMilliseconds, position)
    (self.following, self.isStreaming, self.heardMilliseconds) = (following, isStreaming, heardMilliseconds)
    (self.attached, self.isHeld, self.acknowledges) = (attached, isHeld, acknowledges)
    (self.lagMilliseconds, self.lagBytes) = (lagMilliseconds, lagBytes)
  }
}

/// How far a log reaches: whose log first, then how much of it.
package struct EnginePosition: Sendable, Equatable, Codable, Comparable, CustomStringConvertible {
  /// Of the last record there is: PostgreSQL's timeline. Grows with every promotion.
  package var lineage: Int64
  package var offset: Int64

  package init(lineage: Int64, offset: Int64) { (self.lineage, self.offset) = (lineage, offset) }

  package static func < (a: Self, b: Self) -> Bool { (a.lineage, a.offset) < (b.lineage, b.offset) }

  package var description: String {
    "\(lineage)/\(String(offset >> 32, radix: 16).uppercased())/\(String(offset & 0xffff_ffff, radix: 16).uppercased())"
  }
}

extension EnginePosition {
  /// Before anything there is.
  package static let none = EnginePosition(lineage: 0, offset: 0)
}
