import Core
import IO

/// Kills restores, what takes them up, and what undoes them; and compares the ends with those of calm ones.
struct RestoreKills {
  /// How a restore is to end.
  enum Way: CaseIterable {
    case through
    /// A validator fails, and everything is put back.
    case vetoed
    /// It succeeds, and the operator wants the old state back.
    case undone
  }

  let shop: ShopSystem
  private let randomness: SeededRandomness
  private(set) var kills = 0
  private(set) var problems: [String] = []
  private(set) var story: [String] = []
  private var calm: [String: [String]] = [:]
  private var duration = Duration.seconds(1)
  private var steps = 20

  init(_ shop: ShopSystem, seed: UInt64) {
    self.shop = shop
    randomness = SeededRandomness(seed: seed)
  }

  private var catalog: [String] { ["-c", "\(shop.root)/shop.yaml"] }

  mutating func run(kills wanted: Int) throws {
    let writer = ShopWriter(shop, from: 0)
    for _ in 0..<2 {
      for _ in 0..<30 { try writer.writeOne() }
      try shop.salvor("backup", "-c", "\(shop.root)/shop.yaml")
    }
    let points = try shop.points()
    for point in points { calm[point] = try calmRestore(point) }
    var round = 0
    while kills < wanted {
      try one(points[randomness.below(points.count)], Way.allCases[round % Way.allCases.count])
      round += 1
      guard round < wanted * 3 + 6 else { break }
    }
  }

  private mutating func calmRestore(_ point: String) throws -> [String] {
    let process = try shop.salvor("restore", "--yes", "--point", point, "-c", "\(shop.root)/shop.yaml")
    (duration, steps) = (process.elapsed, process.boundaries)
    try shop.salvor("run", "release", "latest", "--yes")
    check(try shop.running() == ["customers": 1, "orders": 1], "services after a calm restore")
    return try shop.contents()
  }

  private mutating func one(_ point: String, _ way: Way) throws {
    try damage()
    let before = try shop.contents()
    let known = try shop.runs().map(\.id)
    if way == .vetoed { try Files.replace(shop.veto, with: []) }
    story.append("\(way)")
    // Half a rollback needs a whole restore.
    try act(["restore", "--yes", "--point", point] + catalog, odds: way == .undone ? 0.2 : 1, undoes: way == .vetoed)
    var run = try shop.runs().first
    if run?.id == known.first {
      // Killed before anything was written down: then nothing may have been touched.
      check(try shop.contents() == before, "a restore that never began changed something")
      try shop.start(["restore", "--yes", "--point", point] + catalog).wait(expecting: way == .vetoed ? [4] : [0])
      run = try shop.runs().first
    }
    while let state = run?.state, ["pending", "running", "rollingBack"].contains(state) {
      try act(["run", "resume", "latest"], odds: 0.4, undoes: way == .vetoed)
      run = try shop.runs().first
    }
    if way == .undone {
      check(run?.state == "succeeded", "the restore ended as \(run?.state ?? "nothing")")
      repeat {
        try act(["run", "rollback", "latest", "--yes"], odds: 0.7, undoes: true)
        run = try shop.runs().first
      } while run?.state == "rollingBack" || run?.state == "succeeded"
    }
    try Files.removeTree(shop.veto)
    let expected = way == .through ? "succeeded" : "rolledBack"
    check(run?.state == expected, "a restore that was to end as \(expected) is \(run?.state ?? "nothing")")
    check(try shop.contents() == (way == .through ? calm[point] : before), "the state after it is not as it should be")
    check(try shop.running() == ["customers": 1, "orders": 1], "services run \(try shop.running())")
    try shop.salvor("run", "release", "latest", "--yes")
    check(try shop.workspaces().isEmpty, "left behind: \(try shop.workspaces())")
  }

  /// Starts `arguments` and perhaps kills it: at a random moment, or right after a step.
  ///
  /// - Parameter undoes: It may go backwards, in twelve steps.
  private mutating func act(_ arguments: [String], odds: Double, undoes: Bool) throws {
    guard randomness.chance(odds) else {
      _ = try shop.start(arguments).wait(expecting: undoes ? [0, 4] : [0])
      return
    }
    let forwards = arguments[0] == "restore" ? steps : arguments[1] == "resume" ? steps / 3 : 0
    let moment: SalvorProcess.Moment =
      randomness.chance(0.7)
      ? .step(randomness.below(forwards + (undoes ? 12 : 0)))
      : .after(.nanoseconds(Int64(randomness.below(Int(duration.wholeNanoseconds)))))
    let wasKilled = try shop.start(arguments).kill(moment)
    if wasKilled { kills += 1 }
    story.append("\(arguments.prefix(2).joined(separator: " ")) \(wasKilled ? "killed" : "ended") \(moment)")
  }

  /// The live state moves on and is hurt, each time another way.
  private mutating func damage() throws {
    let count = (try? shop.orderCount()) ?? 0
    let writer = ShopWriter(shop, from: count + 1000)
    // A rollback brought the damage of the round before back.
    if Files.exists(shop.papers), Files.exists(shop.customers) {
      for _ in 0..<3 { try writer.writeOne() }
    }
    switch randomness.below(4) {
    case 0: try Database(shop.orders).run("DELETE FROM entry WHERE id % 3 = 0")
    case 1: try Files.removeTree(shop.papers)
    case 2: for suffix in ["", "-wal", "-shm"] { try Files.removeTree(shop.customers + suffix) }
    default: break
    }
  }

  private mutating func check(_ holds: Bool, _ what: String) {
    if !holds { problems.append("\(what) (after \(story.suffix(6).joined(separator: ", ")))") }
  }
}
