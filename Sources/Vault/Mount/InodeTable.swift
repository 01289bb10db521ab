import Core
import IO
import Synchronization

/// What the kernel knows of a mount, by number.
///
/// Numbers are made from names, so that a file keeps its own while the mount lasts, also after the kernel forgot it: from the
/// directory's number and the name; for a file with several names from where it lay, so that they share one.
final class InodeTable: Sendable {
  struct Entry: Sendable {
    enum Thing: Sendable {
      /// A directory or link of ``MountLayout``, by its path.
      case above([FileName])
      /// In a snapshot: `top` is the number of the snapshot's own directory.
      case node(TreeNode, top: UInt64)
      case snapshot(StoredSnapshot)
    }

    var thing: Thing
    /// Tells two things apart that would have one number.
    var identity: Digest
  }

  static let root: UInt64 = 1

  private struct Known {
    var entry: Entry
    /// How often the kernel was told of it and has not forgotten.
    var count: UInt64
  }

  private let known = Mutex<[UInt64: Known]>([:])
  /// Chance of this mount: a snapshot can't be made so that its files collide.
  private let salt: [UInt8]

  init(salt: [UInt8]) { self.salt = salt }

  func find(_ number: UInt64) -> Entry? {
    if number == Self.root { return Entry(thing: .above([]), identity: Digest.of("root")) }
    return known.withLock { $0[number]?.entry }
  }

  /// Counts one more mention of `entry`.
  func mention(_ entry: Entry, as number: UInt64) -> UInt64 {
    known.withLock { known in
      var number = number
      // A collision by chance: the next number that is free, or already its own.
      while let other = known[number], other.entry.identity != entry.identity { number &+= 1 }
      known[number, default: Known(entry: entry, count: 0)].count += 1
      known[number]?.entry = entry
      return number
    }
  }

  func forget(_ number: UInt64, count: UInt64) {
    known.withLock { known in
      guard let entry = known[number] else { return }
      if entry.count > count { known[number]?.count -= count } else { known[number] = nil }
    }
  }

  var count: Int { known.withLock { $0.count } }

  // MARK: Numbers

  func identity(of name: FileName, in directory: UInt64) -> Digest { hash(0, [directory], name.bytes) }

  /// Names of one file agree in all that is the file's own.
  func identity(of node: TreeNode, named name: FileName, in directory: UInt64, top: UInt64) -> Digest {
    guard node.metadata.kind.isRegular, node.metadata.links > 1, node.metadata.inode != 0 else {
      return identity(of: name, in: directory)
    }
    let metadata = node.metadata
    return hash(
      1, [top, metadata.device, metadata.inode, UInt64(bitPattern: metadata.size)], node.content.flatMap(\.bytes))
  }

  /// 2 and up; the lowest bits of a digest would do as well.
  func number(_ identity: Digest) -> UInt64 { max(2, identity.leadingWord & 0x7fff_ffff_ffff_ffff) }

  private func hash(_ kind: UInt8, _ words: [UInt64], _ bytes: [UInt8]) -> Digest {
    var all = salt + [kind]
    for word in words {
      for shift in stride(from: 0, to: 64, by: 8) { all.append(UInt8(truncatingIfNeeded: word >> UInt64(shift))) }
    }
    return Digest.of(all + bytes)
  }
}
