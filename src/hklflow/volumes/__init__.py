"""Operations on volumes: symmetrise, punch and fill, pair distributions, cuts."""
