import Core
import IO

/// Kills backups under live writers, and looks after each.
struct BackupKills {
  let shop: ShopSystem
  private let randomness: SeededRandomness
  private(set) var kills = 0
  private(set) var problems: [String] = []
  private(set) var story: [String] = []
  private(set) var longestWrite = Duration.zero
  /// Each point, and between which counts of orders it must lie.
  private var bounds: [String: ClosedRange<Int>] = [:]

  init(_ shop: ShopSystem, seed: UInt64) {
    self.shop = shop
    randomness = SeededRandomness(seed: seed)
  }

  mutating func run(kills wanted: Int) throws {
    let writer = ShopWriter(shop, from: 0)
    for _ in 0..<20 { try writer.writeOne() }
    writer.start()
    defer { writer.stop() }
    var duration = try backup(writer)
    while kills < wanted {
      let known = try shop.points()
      let moment = Duration.nanoseconds(Int64(randomness.below(Int(duration.wholeNanoseconds))))
      let begun = writer.acknowledged
      let process = try shop.start("backup", "-c", "\(shop.root)/shop.yaml")
      let wasKilled = try process.kill(.after(moment))
      if wasKilled { kills += 1 }
      story.append("\(wasKilled ? "killed" : "ended") after \(moment.brief)")
      try look(known, writer, since: begun)
      if randomness.chance(0.4) || kills == wanted { duration = try backup(writer) }
    }
    writer.stop()
    longestWrite = writer.longest
    check(try shop.orderCount() == writer.acknowledged, "an acknowledged order is gone")
    try shop.verify()
    try restoreEach()
  }

  /// A backup that nobody kills, after which nothing of the dead ones may be left.
  private mutating func backup(_ writer: ShopWriter) throws -> Duration {
    let before = Set(try shop.points())
    let low = writer.acknowledged
    let process = try shop.salvor("backup", "-c", "\(shop.root)/shop.yaml")
    let took = process.elapsed
    let new = try shop.points().filter { !before.contains($0) }
    check(new.count == 1, "a backup made \(new.count) points")
    for point in new { bounds[point] = low...writer.begun }
    for place in ["state/scratch", "repository/locks"] {
      let left = (try? Files.names(in: "\(shop.root)/\(place)").map(\.lossyText)) ?? []
      check(left.isEmpty, "\(place) still holds \(left)")
    }
    return took
  }

  private mutating func look(_ known: [String], _ writer: ShopWriter, since begun: Int) throws {
    let before = writer.acknowledged
    let deadline = SystemTime().monotonicNanoseconds() + 5_000_000_000
    while writer.acknowledged == before, writer.failure == nil, SystemTime().monotonicNanoseconds() < deadline {
      usleep(1000)
    }
    check(writer.failure == nil, "writers are stuck: \(writer.failure ?? "")")
    check(writer.acknowledged > before, "writers are stuck")
    let points = try shop.points()
    check(Set(points).isSuperset(of: known), "points are gone: \(Set(known).subtracting(points).sorted())")
    // Killed between the point's snapshot and the end: it is there, and must be as good as any.
    for point in points where bounds[point] == nil { bounds[point] = begun...writer.begun }
    if let newest = points.last { try shop.verify(newest) }
  }

  /// The oldest, the newest and some between: each is a state the shop was in while it was taken.
  private mutating func restoreEach() throws {
    let points = try shop.points()
    check(Set(points) == Set(bounds.keys), "the points are not those that were taken")
    var chosen = [points.first, points.last].compactMap { $0 }
    if points.count > 2 { chosen.insert(points[1 + randomness.below(points.count - 2)], at: 1) }
    for point in chosen {
      try shop.salvor("restore", "--yes", "--point", point, "-c", "\(shop.root)/shop.yaml")
      let count = try shop.orderCount()
      check(
        bounds[point]?.contains(count) ?? false,
        "\(point) holds \(count) orders, not \(String(describing: bounds[point]))")
      let contents = try shop.contents()
      check(contents.count { $0.hasPrefix("entry") } == count, "\(point): entries")
      check(contents.count { $0.hasPrefix("customer") } >= count, "\(point): an order's customer is missing")
      check(contents.count { $0.hasPrefix("paper") } >= count, "\(point): an order's paper is missing")
      try shop.salvor("run", "release", "latest", "--yes")
    }
  }

  private mutating func check(_ holds: Bool, _ what: String) {
    if !holds { problems.append("\(what) (after \(story.last ?? "nothing"))") }
  }
}

#if canImport(Glibc)
  import Glibc
#endif
