import Core
import DriverKit
import Glibc
import IO
import Synchronization
import TestSupport
import Testing

@Suite("A swap of paths") struct PathSwapTests {
  enum Shape: String, CaseIterable { case file, fileWithCompanions, directory, nothingLive, orphanCompanion }

  /// A live state called `old`, as its shape says, and a finished one called `new` beside.
  private struct Place {
    let directory: TemporaryDirectory
    let shape: Shape
    var swap: PathSwap

    init(_ shape: Shape) throws {
      directory = try TemporaryDirectory("swap")
      self.shape = shape
      let live = directory.file("state")
      swap = PathSwap(
        live: live, workspace: directory.file(".salvor-state-1"),
        companions: shape == .directory ? [] : ["-wal", "-journal"])
      try swap.prepare()
      switch shape {
      case .file:
        try write(live, "old")
        try write(swap.incomplete, "new")
      case .fileWithCompanions:
        for suffix in ["", "-wal"] { try write(live + suffix, "old\(suffix)") }
        for suffix in ["", "-wal", "-journal"] { try write(swap.incomplete + suffix, "new\(suffix)") }
      case .directory:
        for (place, name) in [(live, "old"), (swap.incomplete, "new")] {
          try Files.createDirectory(place)
          try write(place + "/in", name)
        }
      case .nothingLive: try write(swap.incomplete, "new")
      case .orphanCompanion:
        try write(live + "-wal", "old-wal")
        try write(swap.incomplete, "new")
      }
      try swap.complete()
    }

    func write(_ path: String, _ text: String) throws { try Files.replace(path, with: Array(text.utf8)) }

    /// What lies at the live path and its companions.
    var liveState: [String: String] {
      var result: [String: String] = [:]
      for suffix in ["", "-wal", "-journal", "/in"] {
        guard let bytes = try? Files.read(swap.live + suffix) else { continue }
        result[suffix] = String(decoding: bytes, as: UTF8.self)
      }
      return result
    }

    var old: [String: String] {
      switch shape {
      case .file: ["": "old"]
      case .fileWithCompanions: ["": "old", "-wal": "old-wal"]
      case .directory: ["/in": "old"]
      case .nothingLive: [:]
      case .orphanCompanion: ["-wal": "old-wal"]
      }
    }

    var new: [String: String] {
      switch shape {
      case .file, .nothingLive, .orphanCompanion: ["": "new"]
      case .fileWithCompanions: ["": "new", "-wal": "new-wal", "-journal": "new-journal"]
      case .directory: ["/in": "new"]
      }
    }

    /// This swap, dying before its call number `number`; counted from 0.
    func dying(before number: Int) -> PathSwap {
      var copy = swap
      let count = Counter()
      copy.beforeCall = { call throws(DriverError) in
        if count.next() == number { throw .unsupported("died before \(call)") }
      }
      return copy
    }

    /// Runs `body` with a crash before its first call, then its second, …; `true` once it got through.
    func survives(_ number: Int, _ body: (PathSwap) throws -> Void) throws -> Bool {
      do {
        try body(dying(before: number))
        return true
      } catch DriverError.unsupported {
        return false
      }
    }
  }

  private final class Counter: Sendable {
    private let value = Mutex(0)
    func next() -> Int {
      value.withLock { value in
        defer { value += 1 }; return value
      }
    }
  }

  @Test(arguments: Shape.allCases)
  func `there, back, there again, each twice`(_ shape: Shape) throws {
    let place = try Place(shape)
    #expect(place.liveState == place.old)
    try place.swap.swapOut()
    #expect(place.liveState == place.old, "nothing to undo")
    for _ in 1...2 {
      for _ in 1...2 { try place.swap.swapIn() }
      #expect(place.liveState == place.new)
      for _ in 1...2 { try place.swap.swapOut() }
      #expect(place.liveState == place.old)
    }
    try place.swap.swapIn()
    for _ in 1...2 { try place.swap.discard() }
    #expect(place.liveState == place.new)
    #expect(try Files.names(in: place.directory.path).allSatisfy { !$0.lossyText.hasPrefix(".salvor") })
    #expect(throws: DriverError.self) { try place.swap.swapIn() }
  }

  /// What is called after the crash; all of them must end well whatever was interrupted.
  enum Next: String, CaseIterable { case swapIn, swapOut, discard }

  @Test(arguments: Shape.allCases, Next.allCases)
  func `a crash at any call is mended by the next call`(_ shape: Shape, _ next: Next) throws {
    for crashing in [Next.swapIn, .swapOut] {
      var number = 0
      while true {
        let place = try Place(shape)
        if crashing == .swapOut { try place.swap.swapIn() }
        let isThrough = try place.survives(number) { swap in
          try crashing == .swapIn ? swap.swapIn() : swap.swapOut()
        }
        switch next {
        case .swapIn:
          try place.swap.swapIn()
          #expect(place.liveState == place.new, "\(crashing) died before call \(number)")
          try place.swap.swapOut()
          #expect(place.liveState == place.old, "\(crashing) died before call \(number)")
        case .swapOut:
          try place.swap.swapOut()
          #expect(place.liveState == place.old, "\(crashing) died before call \(number)")
          try place.swap.swapIn()
          #expect(place.liveState == place.new, "\(crashing) died before call \(number)")
        case .discard:
          try place.swap.discard()
          let state = place.liveState
          #expect(state == place.old || state == place.new, "\(crashing) died before call \(number): \(state)")
        }
        if isThrough { break }
        number += 1
        try #require(number < 100)
      }
      #expect(number > 1, "the crash was injected at least twice")
    }
  }

  @Test(arguments: Shape.allCases)
  func `a crash in a discard is mended`(_ shape: Shape) throws {
    var number = 0
    while true {
      let place = try Place(shape)
      try place.swap.swapIn()
      let isThrough = try place.survives(number) { try $0.discard() }
      try place.swap.discard()
      #expect(place.liveState == place.new)
      #expect(!Files.exists(place.swap.workspace) && !Files.exists(place.swap.workspace + ".discarded"))
      if isThrough { break }
      number += 1
    }
  }

  @Test(arguments: [Shape.file, .fileWithCompanions, .directory], ["kept", ""])
  func `a kept state that is gone is told, and the live one left alone`(_ shape: Shape, _ lost: String) throws {
    let place = try Place(shape)
    try place.swap.swapIn()
    let workspace = place.swap.workspace
    try Files.rename(lost.isEmpty ? workspace : place.swap.kept, to: place.directory.file("elsewhere"))
    let error = #expect(throws: DriverError.self) { try place.swap.swapOut(isRecorded: true) }
    #expect(error?.report.code == "DRIVER-608", "\(String(describing: error))")
    #expect(error?.report.summary.contains(workspace) == true && error?.report.state?.contains(place.swap.live) == true)
    #expect(place.liveState == place.new)
    try Files.rename(place.directory.file("elsewhere"), to: lost.isEmpty ? workspace : place.swap.kept)
    for _ in 1...2 { try place.swap.swapOut(isRecorded: true) }
    #expect(place.liveState == place.old, "once it is back")
  }

  @Test func `what can't be seen is not taken for absent`() throws {
    let directory = try TemporaryDirectory("swap")
    // A link to itself: nobody can look behind it, root neither.
    try #require(symlink("loop", directory.file("loop")) == 0)
    try #require(symlink("nowhere", directory.file("link")) == 0)
    try Files.replace(directory.file("file"), with: [])
    #expect(try Files.isThere(directory.file("link")) && Files.isThere(directory.file("loop")))
    #expect(try !Files.isThere(directory.file("none")) && !Files.isThere(directory.file("file/below")))
    #expect(throws: SystemFailure.self) { try Files.isThere(directory.file("loop/state")) }
    let swap = PathSwap(live: directory.file("loop/state"), workspace: directory.file("loop/.salvor-state-1"))
    #expect(throws: DriverError.self) { try swap.swapOut() }
    #expect(throws: DriverError.self) { try swap.discard() }
    #expect(throws: DriverError.self) { try swap.isComplete() }
  }

  @Test func `a live path that came to be in the middle is never overwritten`() throws {
    var place = try Place(.nothingLive)
    // Dies before the last rename: `kept-nothing` says that nobody was live.
    var number = 0
    while !Files.exists(place.swap.workspace + "/kept-nothing") {
      place = try Place(.nothingLive)
      try #require(try !place.survives(number) { try $0.swapIn() })
      number += 1
    }
    try place.write(place.swap.live, "somebody's")
    #expect(throws: DriverError.self) { try place.swap.swapIn() }
    #expect(place.liveState == ["": "somebody's"])
  }

  @Test func `a mount point and a symbolic link are refused by the pre-check`() throws {
    let mounted = PathSwap(live: "/proc", workspace: "/.salvor-proc-1")
    #expect(mounted.precheck(needsBytes: 1).contains { $0.report.code == "DRIVER-605" })
    let directory = try TemporaryDirectory("swap")
    try #require(symlink("/tmp", directory.file("link")) == 0)
    let link = PathSwap(live: directory.file("link"), workspace: directory.file(".salvor-link-1"))
    #expect(link.precheck(needsBytes: 1).map(\.report.code) == ["DRIVER-604"])
    #expect(link.precheck(needsBytes: .max).map(\.report.code) == ["DRIVER-604", "DRIVER-602"])
    let nowhere = PathSwap(live: directory.file("a/b"), workspace: directory.file("a/.salvor-b-1"))
    #expect(nowhere.precheck(needsBytes: 1).map(\.report.code) == ["DRIVER-601"])
  }
}
