import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Files to back up; the same every time on the same machine. Every call blocks.
struct BenchmarkData {
  enum Kind: String {
    /// What systems consist of, taken from this one: text, programs, libraries; an eighth is noise, as media are.
    case mixed
    /// One file that nothing can be saved on.
    case noise
    /// Many files of a few kilobytes.
    case tiny
  }

  let kind: Kind
  let path: String
  private let bytes: Int
  private let files: Int

  init(_ kind: Kind, at path: String, megabytes: Int, files: Int) {
    (self.kind, self.path, bytes, self.files) = (kind, path, megabytes * 1_000_000, files)
  }

  func make() throws {
    try Files.createDirectory(path)
    let random = SeededRandomness(seed: 20)
    switch kind {
    case .mixed:
      var left = bytes - bytes / 8
      for root in ["/usr/include", "/usr/share", "/usr/bin", "/usr/lib"] where Files.isDirectory(root) {
        try copy(root, &left)
      }
      // A small system has less: prose makes up for it.
      var number = 0
      while left > 0 {
        try Files.createDirectory(path + "/prose")
        let count = min(left, 3_000_000)
        try Files.replace("\(path)/prose/\(number)", with: prose(count, random))
        (left, number) = (left - count, number + 1)
      }
      try Files.createDirectory(path + "/media")
      var noise = bytes / 8
      while noise > 0 {
        let count = min(noise, [200_000, 3_000_000, 40_000_000][random.below(3)])
        try Files.replace("\(path)/media/\(noise)", with: random.bytes(count))
        noise -= count
      }
    case .noise:
      let file = try File(path + "/noise", O_WRONLY | O_CREAT)
      var left = bytes
      while left > 0 {
        let count = min(left, 4 << 20)
        try random.bytes(count).withUnsafeBytes { try file.write($0) }
        left -= count
      }
    case .tiny:
      for index in 0..<files {
        if index % 500 == 0 { try Files.createDirectory("\(path)/\(index / 500)") }
        try write("\(path)/\(index / 500)/\(index)", prose(100 + random.below(8000), random))
      }
    }
  }

  /// Changes one file in a hundred, and a hundredth of every large one.
  func change(round: Int) throws {
    let random = SeededRandomness(seed: 100 + UInt64(round))
    for (index, name) in try Self.files(below: path).enumerated() {
      let file = try File(name, O_RDWR)
      let size = Int(try file.status().st_size)
      if size > 10_000_000 {
        try random.bytes(size / 100).withUnsafeBytes { try file.write($0, at: Int64(random.below(size / 2))) }
      } else if index % 100 == round % 100, size > 0 {
        try random.bytes(min(size, 4096)).withUnsafeBytes { try file.write($0, at: 0) }
      }
    }
  }

  /// - Throws: If a restored file differs from its original.
  func compare(with directory: String) throws {
    for name in try Self.files(below: path) {
      let other = directory + name.dropFirst(path.count)
      var (mine, theirs) = try (Pieces(name), Pieces(other))
      while true {
        let (a, b) = try (mine.next(), theirs.next())
        guard a.elementsEqual(b) else { throw BenchmarkError.wrong("\(other) is not as it was") }
        if a.isEmpty { break }
      }
    }
  }

  /// Reads every file below a directory, so that whoever is measured next finds it in memory, whoever wrote it and however.
  static func warm(_ directory: String) throws {
    for name in try files(below: directory) {
      var pieces = try Pieces(name)
      while try !pieces.next().isEmpty {}
    }
  }

  /// A file, a MiB at a time: what this program holds at its most, the programs it starts are said to hold.
  private struct Pieces {
    private let file: File
    private var buffer = [UInt8](repeating: 0, count: 1 << 20)

    init(_ path: String) throws { file = try File(path, O_RDONLY) }

    /// Empty at the end.
    mutating func next() throws -> ArraySlice<UInt8> {
      var count = 0
      while count < buffer.count {
        let got = try buffer.withUnsafeMutableBytes { bytes in
          try file.read(into: UnsafeMutableRawBufferPointer(rebasing: bytes[count...]))
        }
        if got == 0 { break }
        count += got
      }
      return buffer[..<count]
    }
  }

  static func bytes(below directory: String) throws -> Int64 {
    try TreeReader.scan(directory).reduce(0) { $0 + $1.metadata.size }
  }

  static func files(below directory: String) throws -> [String] {
    try TreeReader.scan(directory).filter { $0.metadata.kind == .regular }.map { "\(directory)/\($0.path)" }
  }

  /// Files of a directory as long as they fit; none larger than 64 MB, none that can't be read.
  private func copy(_ root: String, _ left: inout Int) throws {
    for entry in try TreeReader.scan(root) where entry.metadata.kind == .regular {
      let size = Int(entry.metadata.size)
      guard size <= min(left, 64_000_000), var pieces = try? Pieces("\(root)/\(entry.path)") else { continue }
      let target = "\(path)\(root)/\(entry.path)"
      try Files.createDirectory(Files.parent(of: target))
      let file = try File(target, O_WRONLY | O_CREAT | O_TRUNC)
      while true {
        let piece = try pieces.next()
        if piece.isEmpty { break }
        try piece.withUnsafeBytes { try file.write($0) }
        left -= piece.count
      }
    }
  }

  /// Without `fsync`, which would take longer than all the rest.
  private func write(_ path: String, _ bytes: [UInt8]) throws {
    let file = try File(path, O_WRONLY | O_CREAT | O_TRUNC)
    try bytes.withUnsafeBytes { try file.write($0) }
  }

  /// Words of a small vocabulary compress as prose and tables do.
  private func prose(_ count: Int, _ random: SeededRandomness) -> [UInt8] {
    var result = [UInt8](repeating: 0, count: count)
    result.withUnsafeMutableBytes { buffer in
      for offset in stride(from: 0, to: count & ~7, by: 8) {
        buffer.storeBytes(
          of: (random.next() & 0x3ff) &* 0x0101_0311_1d2b_2f01, toByteOffset: offset, as: UInt64.self)
      }
    }
    return result
  }
}
