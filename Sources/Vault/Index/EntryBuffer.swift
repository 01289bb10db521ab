import CShim
import Core

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// A row of entries in memory of its own, shared between copies until one of them changes.
///
/// An array would hold everything twice while it grows. This grows where it lies: the system moves large memory by its
/// page table, and what was asked for and not yet used is nowhere.
struct EntryBuffer: @unchecked Sendable {
  // Memory is changed only where a single value refers to it.
  private final class Memory {
    var base: UnsafeMutablePointer<BlobEntry>
    var capacity: Int

    /// What is larger has pages of its own: in the heap, hundreds of buffers that grow side by side leave holes.
    private static let smallBytes = 32 << 10

    init(capacity: Int) {
      (base, self.capacity) = (Memory.make(capacity), capacity)
    }

    deinit { Memory.give(base, capacity) }

    func resize(_ capacity: Int) {
      let (old, new) = (Memory.bytes(self.capacity), Memory.bytes(capacity))
      if old > Memory.smallBytes, new > Memory.smallBytes {
        base = Memory.checked(salvor_resize_pages(base, old, new))
      } else {
        let fresh = Memory.make(capacity)
        fresh.update(from: base, count: min(self.capacity, capacity))
        Memory.give(base, self.capacity)
        base = fresh
      }
      self.capacity = capacity
    }

    private static func make(_ capacity: Int) -> UnsafeMutablePointer<BlobEntry> {
      let bytes = bytes(capacity)
      return checked(bytes > smallBytes ? salvor_resize_pages(nil, 0, bytes) : malloc(bytes))
    }

    private static func give(_ base: UnsafeMutablePointer<BlobEntry>, _ capacity: Int) {
      let bytes = bytes(capacity)
      if bytes > smallBytes { salvor_free_pages(base, bytes) } else { free(base) }
    }

    private static func bytes(_ capacity: Int) -> Int { capacity * MemoryLayout<BlobEntry>.stride }

    private static func checked(_ memory: UnsafeMutableRawPointer?) -> UnsafeMutablePointer<BlobEntry> {
      guard let memory else { fatalError("out of memory") }
      return memory.assumingMemoryBound(to: BlobEntry.self)
    }
  }

  private var memory: Memory?
  private(set) var count = 0

  init() {}

  /// - Parameter capacity: Entries there is room for before it has to grow.
  init(capacity: Int) { own(capacity: capacity) }

  /// Entries there is room for.
  var capacity: Int { memory?.capacity ?? 0 }

  var isEmpty: Bool { count == 0 }

  subscript(index: Int) -> BlobEntry {
    @inline(__always) get {
      precondition(index >= 0 && index < count, "no such entry")
      return memory.unsafelyUnwrapped.base[index]
    }
  }

  func withEntries<T>(_ body: (UnsafeBufferPointer<BlobEntry>) -> T) -> T {
    body(UnsafeBufferPointer(start: memory?.base, count: count))
  }

  /// Moves and overwrites in place; may not lose entries or bring any in.
  mutating func withMutableEntries<T>(_ body: (UnsafeMutableBufferPointer<BlobEntry>) -> T) -> T {
    own(capacity: capacity)
    return body(UnsafeMutableBufferPointer(start: memory?.base, count: count))
  }

  mutating func append(_ entry: BlobEntry) {
    makeRoom(1)
    memory.unsafelyUnwrapped.base[count] = entry
    count += 1
  }

  mutating func append(_ entries: UnsafeBufferPointer<BlobEntry>) {
    guard let source = entries.baseAddress, !entries.isEmpty else { return }
    makeRoom(entries.count)
    (memory.unsafelyUnwrapped.base + count).update(from: source, count: entries.count)
    count += entries.count
  }

  /// Brings entries in where they belong; both sides are sorted and have nothing in common.
  mutating func merge(_ entries: UnsafeBufferPointer<BlobEntry>) {
    guard !entries.isEmpty else { return }
    let total = count + entries.count
    // Some room for the next time; seldom more than one part in thirty.
    if capacity < total { own(capacity: total + total >> 5) } else { own(capacity: capacity) }
    let base = memory.unsafelyUnwrapped.base
    // From the back: what lies here moves once, in stretches.
    var (end, write) = (count, total)
    for entry in entries.reversed() {
      let start = UnsafeBufferPointer(start: base, count: end).lowerBound(of: entry)
      write -= end - start
      (base + write).update(from: base + start, count: end - start)
      write -= 1
      base[write] = entry
      end = start
    }
    count = total
  }

  mutating func keepFirst(_ count: Int) {
    precondition(count <= self.count, "no such entry")
    self.count = count
  }

  /// Gives back what was asked for and isn't used.
  mutating func trim() {
    if count == 0 { memory = nil } else if capacity > count { own(capacity: count) }
  }

  private mutating func makeRoom(_ more: Int) {
    let needed = count + more
    own(capacity: capacity < needed ? max(8, needed + needed >> 2) : capacity)
  }

  /// - Parameter capacity: At least `count`.
  private mutating func own(capacity: Int) {
    if isKnownUniquelyReferenced(&memory) {
      if let memory, memory.capacity != capacity { memory.resize(capacity) }
    } else if capacity > 0 {
      let copy = Memory(capacity: capacity)
      if let memory { copy.base.update(from: memory.base, count: count) }
      memory = copy
    }
  }
}

// MARK: Searching

extension UnsafeBufferPointer<BlobEntry> {
  /// Where the first entry lies that doesn't come before `entry`. Logarithmic.
  func lowerBound(of entry: BlobEntry) -> Int {
    var (low, high) = (0, count)
    while low < high {
      let middle = (low + high) >> 1
      if self[middle] < entry { low = middle + 1 } else { high = middle }
    }
    return low
  }

  /// Where the first entry lies whose name doesn't come before `id`.
  ///
  /// Names are hashes, so a name says where it must be: three looks in the mean, whatever the number of entries. Names
  /// that someone chose cost as many as there are digits in it.
  ///
  /// - Parameter bits: How many leading bits all entries have in common with `id`.
  func lowerBound(of id: BlobName, sharing bits: Int) -> Int {
    // The first entry that isn't before `id` is one of these, the end included.
    var (low, high) = (0, count)
    let perWord = Double(count) * 0x1p-64
    let target = Double(id.first << UInt64(bits))
    var guess = Int(target * perWord)
    for _ in 0..<4 where low < high {
      guess = Swift.min(Swift.max(guess, low), high - 1)
      let found = self[guess].name
      let isBefore = found < id
      if isBefore { low = guess + 1 } else { high = guess }
      let away = Int((target - Double(found.first << UInt64(bits))) * perWord)
      if abs(away) > 4 {
        guess += away
        continue
      }
      // Next door, if names are what they should be.
      for _ in 0..<16 {
        if isBefore {
          guard low < high, self[low].name < id else { return low }
          low += 1
        } else {
          guard low < high, !(self[high - 1].name < id) else { return high }
          high -= 1
        }
      }
      break
    }
    while low < high {
      let middle = (low + high) >> 1
      if self[middle].name < id { low = middle + 1 } else { high = middle }
    }
    return low
  }
}

extension UnsafeBufferPointer<BlobEntry> {
  /// Every entry of that name.
  func copies(of name: BlobName, sharing bits: Int) -> Slice<Self> {
    let start = lowerBound(of: name, sharing: bits)
    var end = start
    while end < count, self[end].name == name { end += 1 }
    return self[start..<end]
  }
}

// MARK: Sorting

extension UnsafeMutableBufferPointer<BlobEntry> {
  /// Sorts in place: by one byte of the name after the other, so no choice of names makes it slow.
  ///
  /// - Parameter depth: How many leading bytes all names have in common.
  func sortEntries(from depth: Int = 0) {
    guard count > 512, depth < 32 else {
      var entries = self
      return entries.sort()
    }
    distribute(by: depth) { part in
      if part.count > 1 { part.sortEntries(from: depth + 1) }
    }
  }

  /// Brings together entries whose names have the same byte at `depth`, ascending by it, and hands out each group.
  func distribute(by depth: Int, _ body: (UnsafeMutableBufferPointer<BlobEntry>) -> Void) {
    guard let base = baseAddress else { return }
    withUnsafeTemporaryAllocation(of: Int.self, capacity: 513) { numbers in
      numbers.initialize(repeating: 0)
      let (ends, next) = (numbers.baseAddress! + 1, numbers.baseAddress! + 257)
      for index in 0..<count { ends[base[index].name.byte(depth)] += 1 }
      for byte in 0..<256 {
        next[byte] = ends[byte - 1]
        ends[byte] += ends[byte - 1]
      }
      for byte in 0..<256 {
        while next[byte] < ends[byte] {
          let index = next[byte]
          var target = base[index].name.byte(depth)
          if target != byte {
            // Round and round until one comes that belongs here: each is moved once.
            var entry = base[index]
            repeat {
              let place = next[target]
              next[target] = place + 1
              swap(&base[place], &entry)
              target = entry.name.byte(depth)
            } while target != byte
            base[index] = entry
          }
          next[byte] = index + 1
        }
      }
      for byte in 0..<256 where ends[byte] > ends[byte - 1] {
        body(UnsafeMutableBufferPointer(start: base + ends[byte - 1], count: ends[byte] - ends[byte - 1]))
      }
    }
  }

  /// Of entries that are sorted, keeps one of those that are the same, at the front.
  ///
  /// - Returns: How many there are then, and how many names they have.
  func uniqueEntries() -> (entries: Int, names: Int) {
    guard !isEmpty else { return (0, 0) }
    var (kept, names) = (1, 1)
    for index in 1..<count where self[index] != self[kept - 1] {
      if self[index].name != self[kept - 1].name { names += 1 }
      self[kept] = self[index]
      kept += 1
    }
    return (kept, names)
  }
}
