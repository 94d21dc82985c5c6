;; Le produit d'une matrice d'entiers sur 8 bits par des activations codées sur 8 bits.
;;
;; La matrice va par bandes de quatre lignes ; une ligne est faite de groupes de colonnes, chacun
;; avec son échelle. La somme d'un groupe est entière, donc exacte. Elle est multipliée par
;; (échelle des poids · échelle des activations), arrondi en fp32, et ajoutée à celle des groupes
;; d'avant ; produit et addition ne sont arrondis qu'une fois, comme par une machine qui les fond.
;; engine.js fait les mêmes calculs, aux mêmes bits.
(module
  (import "page" "memory" (memory 0))

  ;; fp32(a · b + c), arrondi une fois, pour deux lignes ; a · b est exact en fp64.
  ;;
  ;; La somme fp64 est elle-même arrondie : si elle tombe au milieu de deux fp32 (ses 29 derniers
  ;; bits sont 100…0) sans y être exactement, son dernier bit est forcé vers le vrai résultat.
  (func $fused (param $a v128) (param $b v128) (param $c v128) (result v128)
    (local $product v128) (local $sum v128) (local $part v128) (local $rest v128)
    (local $middle v128)
    (local.set $product (f64x2.mul (local.get $a) (local.get $b)))
    (local.set $sum (f64x2.add (local.get $product) (local.get $c)))
    (local.set $middle (i64x2.eq
      (v128.and (local.get $sum) (v128.const i64x2 0x1fffffff 0x1fffffff))
      (v128.const i64x2 0x10000000 0x10000000)))
    (if (v128.any_true (local.get $middle))
      (then
        ;; rest : ce que la somme a perdu (D. Knuth).
        (local.set $part (f64x2.sub (local.get $sum) (local.get $product)))
        (local.set $rest (f64x2.add
          (f64x2.sub (local.get $product) (f64x2.sub (local.get $sum) (local.get $part)))
          (f64x2.sub (local.get $c) (local.get $part))))
        ;; De même signe que la somme : un bit de plus ; de signe contraire : un bit de moins.
        (local.set $part (i64x2.shr_s (v128.xor (local.get $rest) (local.get $sum)) (i32.const 63)))
        (local.set $part (v128.or (local.get $part) (v128.const i64x2 1 1)))
        (local.set $part (v128.and (local.get $part) (v128.and (local.get $middle)
          (f64x2.ne (local.get $rest) (v128.const f64x2 0 0)))))
        (local.set $sum (i64x2.add (local.get $sum) (local.get $part)))))
    (f32x4.demote_f64x2_zero (local.get $sum)))

  ;; out (4·strips,) fp32 = codes (4·strips, groups·size) · x (groups·size,), int8 par int16.
  ;; scales (strips, groups, 4) et factors (groups,), fp32 ; size, multiple de 16.
  ;; Les adresses sont en octets ; celles de x et d'une ligne, multiples de 16.
  (func (export "multiply")
    (param $codes i32) (param $scales i32) (param $x i32) (param $factors i32) (param $out i32)
    (param $strips i32) (param $groups i32) (param $size i32)
    (local $width i32) (local $row0 i32) (local $row1 i32) (local $row2 i32) (local $row3 i32)
    (local $input i32) (local $factor i32) (local $group i32) (local $end i32)
    (local $values v128) (local $products v128) (local $sums v128)
    (local $a v128) (local $b v128) (local $c v128) (local $d v128)

    (local.set $width (i32.mul (local.get $groups) (local.get $size)))
    (local.set $row0 (local.get $codes))
    (loop $strip
      (local.set $row1 (i32.add (local.get $row0) (local.get $width)))
      (local.set $row2 (i32.add (local.get $row1) (local.get $width)))
      (local.set $row3 (i32.add (local.get $row2) (local.get $width)))
      (local.set $input (local.get $x))
      (local.set $factor (local.get $factors))
      (local.set $group (local.get $groups))
      (local.set $sums (v128.const f32x4 0 0 0 0))
      (loop $each
        (local.set $a (v128.const i32x4 0 0 0 0))
        (local.set $b (v128.const i32x4 0 0 0 0))
        (local.set $c (v128.const i32x4 0 0 0 0))
        (local.set $d (v128.const i32x4 0 0 0 0))
        (local.set $end (i32.add (local.get $row0) (local.get $size)))
        (loop $columns ;; seize colonnes par tour
          (local.set $values (v128.load (local.get $input)))
          (local.set $a (i32x4.add (local.get $a)
            (i32x4.dot_i16x8_s (local.get $values) (v128.load8x8_s (local.get $row0)))))
          (local.set $b (i32x4.add (local.get $b)
            (i32x4.dot_i16x8_s (local.get $values) (v128.load8x8_s (local.get $row1)))))
          (local.set $c (i32x4.add (local.get $c)
            (i32x4.dot_i16x8_s (local.get $values) (v128.load8x8_s (local.get $row2)))))
          (local.set $d (i32x4.add (local.get $d)
            (i32x4.dot_i16x8_s (local.get $values) (v128.load8x8_s (local.get $row3)))))
          (local.set $values (v128.load offset=16 (local.get $input)))
          (local.set $a (i32x4.add (local.get $a)
            (i32x4.dot_i16x8_s (local.get $values) (v128.load8x8_s offset=8 (local.get $row0)))))
          (local.set $b (i32x4.add (local.get $b)
            (i32x4.dot_i16x8_s (local.get $values) (v128.load8x8_s offset=8 (local.get $row1)))))
          (local.set $c (i32x4.add (local.get $c)
            (i32x4.dot_i16x8_s (local.get $values) (v128.load8x8_s offset=8 (local.get $row2)))))
          (local.set $d (i32x4.add (local.get $d)
            (i32x4.dot_i16x8_s (local.get $values) (v128.load8x8_s offset=8 (local.get $row3)))))
          (local.set $input (i32.add (local.get $input) (i32.const 32)))
          (local.set $row0 (i32.add (local.get $row0) (i32.const 16)))
          (local.set $row1 (i32.add (local.get $row1) (i32.const 16)))
          (local.set $row2 (i32.add (local.get $row2) (i32.const 16)))
          (local.set $row3 (i32.add (local.get $row3) (i32.const 16)))
          (br_if $columns (i32.lt_u (local.get $row0) (local.get $end))))

        ;; Les quatre voies de chaque ligne s'ajoutent : une voie par ligne.
        (local.set $values (i32x4.add
          (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23 (local.get $a) (local.get $b))
          (i8x16.shuffle 8 9 10 11 24 25 26 27 12 13 14 15 28 29 30 31
            (local.get $a) (local.get $b))))
        (local.set $products (i32x4.add
          (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23 (local.get $c) (local.get $d))
          (i8x16.shuffle 8 9 10 11 24 25 26 27 12 13 14 15 28 29 30 31
            (local.get $c) (local.get $d))))
        (local.set $a (i32x4.add
          (i8x16.shuffle 0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23
            (local.get $values) (local.get $products))
          (i8x16.shuffle 8 9 10 11 12 13 14 15 24 25 26 27 28 29 30 31
            (local.get $values) (local.get $products))))

        ;; sums = fp32(somme · échelles + sums), arrondi une fois, deux lignes à la fois.
        (local.set $b (f32x4.mul
          (v128.load (local.get $scales)) (v128.load32_splat (local.get $factor))))
        (local.set $c (call $fused
          (f64x2.convert_low_i32x4_s (local.get $a))
          (f64x2.promote_low_f32x4 (local.get $b))
          (f64x2.promote_low_f32x4 (local.get $sums))))
        (local.set $d (call $fused
          (f64x2.convert_low_i32x4_s (i8x16.shuffle 8 9 10 11 12 13 14 15 8 9 10 11 12 13 14 15
            (local.get $a) (local.get $a)))
          (f64x2.promote_low_f32x4 (i8x16.shuffle 8 9 10 11 12 13 14 15 8 9 10 11 12 13 14 15
            (local.get $b) (local.get $b)))
          (f64x2.promote_low_f32x4 (i8x16.shuffle 8 9 10 11 12 13 14 15 8 9 10 11 12 13 14 15
            (local.get $sums) (local.get $sums)))))
        (local.set $sums (i8x16.shuffle 0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23
          (local.get $c) (local.get $d)))

        (local.set $scales (i32.add (local.get $scales) (i32.const 16)))
        (local.set $factor (i32.add (local.get $factor) (i32.const 4)))
        (local.set $group (i32.sub (local.get $group) (i32.const 1)))
        (br_if $each (local.get $group)))
      (v128.store (local.get $out) (local.get $sums))
      (local.set $out (i32.add (local.get $out) (i32.const 16)))
      (local.set $row0 (local.get $row3)) ;; la ligne qui suit la quatrième
      (local.set $strips (i32.sub (local.get $strips) (i32.const 1)))
      (br_if $strip (local.get $strips)))))
